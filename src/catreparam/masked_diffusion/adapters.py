"""Denoisers from models made elsewhere: masked language models as Hugging Face has them, MDLM's networks."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from catreparam.masked_diffusion.conditions import entries_for, names_of
from catreparam.masked_diffusion.denoiser import Denoiser, FunctionDenoiser, checked_ids, without_tokens
from catreparam.validation import check_count


def from_masked_lm(
    model: Callable[..., Any],
    *,
    mask_token: int | None = None,
    forbidden: Iterable[int] | None = None,
    pad_token: int | None = None,
    vocab_size: int | None = None,
    **fixed: Any,
) -> Denoiser:
    """A denoiser from a masked language model as Hugging Face has them: model(input_ids=…).logits [B, L, vocabulary].

    `fixed` and the condition travel as keyword arguments. The model may run in half precision, and in pieces on several
    devices: its logits come to the device of the tokens.

    Sequences of different lengths: fill the shorter ones with `pad_token`, as the tokenizer does. Padding is never
    drawn, changed, or attended to: a model that takes an `attention_mask` gets one where tokens hold padding, unless
    the caller gives one. Logits of positions outside of the mask are 0, whatever the model says there.

    Parameters:
        model: the network; called with input_ids [B, L].
        mask_token: the id of masked positions; None: `model.config.mask_token_id`, where the config has one
            (tokenizers do: pass `tokenizer.mask_token_id`). Its column becomes -inf.
        forbidden: tokens that are never drawn; None: those that the config names (padding, beginning, end, separator,
            ...), better `tokenizer.all_special_ids`, and () for none.
        pad_token: the id of padding; None: `model.config.pad_token_id`, unless it is another special token too.
        vocab_size: `len(tokenizer)`, where the model's logits are wider than the tokenizer: ids from there on are cut
            off. None: all of the model's. Ids keep their meaning either way.

    Raises: ValueError when the mask token is unknown, a token lies outside the vocabulary, a masked position outside of
        the attention mask.
    """
    config = getattr(model, "config", None)
    if mask_token is None and (mask_token := getattr(config, "mask_token_id", None)) is None:
        raise ValueError("the model's config names no mask token; pass mask_token=tokenizer.mask_token_id")
    token = check_count("mask_token", mask_token, 0)
    size = None if vocab_size is None else check_count("vocab_size", vocab_size)
    named = _special_ids(config)
    special = sorted(t for t in set(named.values()) if size is None or t < size)
    if forbidden is not None:
        special = checked_ids(forbidden)
    if pad_token is None:
        pad_token = _only_padding(named, token)
    names = names_of(model)
    attends = names is None or "attention_mask" in names

    def denoise(tokens: Tensor, **condition: Any) -> Tensor:
        entries = {**fixed, **condition}
        if attends and pad_token is not None and "attention_mask" not in entries and bool((tokens == pad_token).any()):
            entries["attention_mask"] = (tokens != pad_token).long()
        output = model(input_ids=tokens, **entries)
        logits = output if isinstance(output, Tensor) else output.logits
        logits = without_padding(logits.to(tokens.device), tokens, token, entries.get("attention_mask"))
        return without_mask_token(_narrowed(logits, size), token, special)

    denoiser = FunctionDenoiser(denoise, token)
    denoiser.__wrapped__ = model  # whose keyword arguments are the condition's
    return denoiser


def from_mdlm(
    model: Callable[..., Any], *, mask_token: int, sigma: float | Callable[[Tensor], Tensor] = 0.0
) -> Denoiser:
    """A denoiser from an MDLM-style model: model(tokens, sigma [B]) -> log-probabilities or logits [B, L, vocabulary].

    Checkpoints of that kind count the mask token, usually as the last id, and are trained without time (sigma 0) or
    with: `sigma` is a number, or a function of the masked fraction of every sequence [B]; a condition `sigma` replaces
    it. Substitution outputs (log-probability 0 for carried-over tokens) are fine: unmasked positions are carried over
    here anyway. Logits come to the device of the tokens.

    Reference: Sahoo et al. 2024 (MDLM), https://arxiv.org/abs/2406.07524.
    """
    token, fixed_sigma = check_count("mask_token", mask_token, 0), sigma

    def denoise(tokens: Tensor, sigma: Tensor | float | None = None, **condition: Any) -> Tensor:
        chosen = fixed_sigma if sigma is None else sigma
        if callable(chosen):
            chosen = chosen((tokens == token).float().mean(-1))
        noise = torch.as_tensor(chosen, dtype=torch.float32, device=tokens.device)
        output = model(tokens, noise.expand(tokens.shape[0]), **entries_for(model, condition))
        logits = output if isinstance(output, Tensor) else output.logits
        return without_mask_token(logits.to(tokens.device), token)

    return FunctionDenoiser(denoise, token)


def without_mask_token(logits: Tensor, mask_token: int, forbidden: Iterable[int] = ()) -> Tensor:
    """Logits whose columns of the mask token and of forbidden ones are -inf; the vocabulary keeps its size.

    >>> without_mask_token(torch.zeros(1, 3), 2)
    tensor([[0., 0., -inf]])
    """
    if mask_token >= logits.shape[-1]:
        raise ValueError(f"mask_token {mask_token} lies outside the model's vocabulary of {logits.shape[-1]}")
    return without_tokens(logits, [mask_token, *forbidden])


def without_padding(logits: Tensor, tokens: Tensor, mask_token: int, attention_mask: Any) -> Tensor:
    """Logits that are 0 outside of an attention mask [B, L], where models return anything, NaN too.

    Raises ValueError for a masked position outside: its token could not be chosen.
    """
    if not isinstance(attention_mask, Tensor) or attention_mask.shape != tokens.shape:
        return logits
    outside = attention_mask.to(tokens.device) == 0
    if not bool(outside.any()):
        return logits
    if bool((outside & (tokens == mask_token)).any()):
        row, place = (outside & (tokens == mask_token)).nonzero()[0].tolist()
        raise ValueError(
            f"position {place} of sequence {row} holds the mask token, but its attention_mask is 0; fill padding with "
            "the tokenizer's pad token"
        )
    return logits.masked_fill(outside.unsqueeze(-1), 0.0)


def _narrowed(logits: Tensor, vocab_size: int | None) -> Tensor:
    """The columns of the first `vocab_size` tokens."""
    if vocab_size is not None and vocab_size > logits.shape[-1]:
        raise ValueError(f"vocab_size must be at most the model's {logits.shape[-1]}, got {vocab_size}")
    return logits[..., :vocab_size]


def _special_ids(config: Any) -> dict[str, int]:
    """What a model's config names as special, within its vocabulary."""
    found = {kind: getattr(config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos", "cls", "sep", "unk")}
    size = getattr(config, "vocab_size", 0)
    return {kind: token for kind, token in found.items() if isinstance(token, int) and 0 <= token < size}


def _only_padding(named: dict[str, int], mask_token: int) -> int | None:
    """The token that is padding and nothing else: where it also ends a text, it is no sign of padding."""
    pad = named.get("pad")
    others = {mask_token, *(token for kind, token in named.items() if kind != "pad")}
    return None if pad in others else pad
