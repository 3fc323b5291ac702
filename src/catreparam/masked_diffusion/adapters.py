"""Adapters for models made elsewhere, by duck typing: nothing of theirs is imported."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from catreparam.masked_diffusion.denoiser import Denoiser, FunctionDenoiser
from catreparam.validation import check_count


def from_masked_lm(model: Callable[..., Any], *, mask_token: int | None = None, **fixed: Any) -> Denoiser:
    """A denoiser from a masked language model as Hugging Face has them: model(input_ids=…).logits [B, L, vocabulary].

    The ids keep their meaning; the column of the mask token becomes -inf. `mask_token` defaults to
    `model.config.mask_token_id` where the config has one (tokenizers do: pass `tokenizer.mask_token_id`). `fixed` and
    the condition travel as keyword arguments, `attention_mask` say.
    Raises ValueError when the mask token is unknown or outside the vocabulary.
    """
    if mask_token is None:
        mask_token = getattr(getattr(model, "config", None), "mask_token_id", None)
    if mask_token is None:
        raise ValueError("the model's config names no mask token; pass mask_token=tokenizer.mask_token_id")
    token = check_count("mask_token", mask_token, 0)

    def denoise(tokens: Tensor, **condition: Any) -> Tensor:
        output = model(input_ids=tokens, **fixed, **condition)
        logits = output if isinstance(output, Tensor) else output.logits
        return without_mask_token(logits, token)

    return FunctionDenoiser(denoise, token)


def from_mdlm(model: Callable[..., Any], *, mask_token: int, sigma: float = 0.0) -> Denoiser:
    """A denoiser from an MDLM-style model: model(tokens, sigma [B]) -> log-probabilities or logits [B, L, vocabulary].

    Checkpoints of that kind count the mask token, usually as the last id, and are trained without time (sigma 0) or
    with; a condition `sigma` replaces the fixed one. Substitution outputs (log-probability 0 for carried-over tokens)
    are fine: unmasked positions are carried over here anyway.

    Reference: Sahoo et al. 2024 (MDLM), https://arxiv.org/abs/2406.07524.
    """
    token, fixed_sigma = check_count("mask_token", mask_token, 0), sigma

    def denoise(tokens: Tensor, sigma: Tensor | float | None = None, **condition: Any) -> Tensor:
        noise = torch.as_tensor(fixed_sigma if sigma is None else sigma, dtype=torch.float32, device=tokens.device)
        output = model(tokens, noise.expand(tokens.shape[0]), **condition)
        return without_mask_token(output if isinstance(output, Tensor) else output.logits, token)

    return FunctionDenoiser(denoise, token)


def without_mask_token(logits: Tensor, mask_token: int) -> Tensor:
    """Logits without the mask token: its column cut off where it is the last, -inf where other ids follow.

    >>> without_mask_token(torch.zeros(1, 3), 2), without_mask_token(torch.zeros(1, 3), 1)
    (tensor([[0., 0.]]), tensor([[0., -inf, 0.]]))
    """
    if mask_token >= logits.shape[-1]:
        raise ValueError(f"mask_token {mask_token} lies outside the model's vocabulary of {logits.shape[-1]}")
    if mask_token == logits.shape[-1] - 1:
        return logits[..., :-1]
    return logits.index_fill(-1, torch.tensor(mask_token, device=logits.device), -torch.inf)
