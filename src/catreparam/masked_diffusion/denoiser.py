"""Denoisers: (tokens, **condition) -> prior logits. Every foreign model is wrapped once into one, by an adapter."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from catreparam.categorical import wide
from catreparam.kernels.compiled.library import spacious
from catreparam.masked_diffusion.conditions import Condition, entries_for, names_of
from catreparam.masked_diffusion.corruption import Corruption
from catreparam.validation import check_count, check_number


@runtime_checkable
class Denoiser(Protocol):
    """A model of the clean tokens given partly masked ones. Any nn.Module with a `mask_token` is one.

    `tokens` [B, L] hold ids in [0, vocab_size) and `mask_token` where they are masked; the result is
    prior logits [B, L, vocab_size], unnormalised log-probabilities of the clean token at every position.

    vocab_size is the last axis of the logits, nothing else. A mask token inside it (BERT, RoBERTa) has a column of
    -inf; one outside it (mask_token == vocab_size, usually) has none.

    Optional: `evaluations_per_call` (int, default 1), the model evaluations that a call costs a sequence; `corruption`,
    what the model was trained to undo (`Masked`, or `Uniform`: then tokens are never masked; default masks).

    Fields:
        mask_token: the id of masked positions.
    """

    mask_token: int

    def __call__(self, tokens: Tensor, **condition: Any) -> Tensor:
        """tokens [B, L] -> prior logits [B, L, vocab_size]."""
        ...


class FunctionDenoiser:
    """What `as_denoiser` returns."""

    def __init__(self, function: Callable[..., Tensor], mask_token: int, corruption: Corruption | None = None) -> None:
        self.function, self.mask_token, self.corruption = function, mask_token, corruption
        self.evaluations_per_call = 1
        self.__wrapped__ = function  # whose keyword arguments are the condition's

    def __call__(self, tokens: Tensor, **condition: Any) -> Tensor:
        return self.function(tokens, **condition)


def as_denoiser(
    function: Callable[..., Tensor],
    *,
    mask_token: int,
    forbidden: Iterable[int] = (),
    corruption: Corruption | None = None,
) -> Denoiser:
    """A denoiser from any function (tokens [B, L], **condition) -> prior logits [B, L, vocab_size].

    `forbidden` tokens are never drawn: their columns become -inf. If the last axis counts the mask token, name it there
    too, or use `from_masked_lm`. A model with time conditioning has an argument `masked_fraction`, that of every
    sequence [B], or `noise_level`, that of the schedule before the round [B]; it is handed what it names.
    `corruption` is what the model was trained to undo; None: masks. See `Uniform`.

    >>> denoiser = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 9), mask_token=9)
    >>> denoiser(torch.full((2, 4), 9)).shape
    torch.Size([2, 4, 9])
    """
    if not callable(function):
        raise TypeError(f"a denoiser must be callable, got {function!r}")
    mask_token, forbidden = check_count("mask_token", mask_token, 0), checked_ids(forbidden)
    if not forbidden:
        return FunctionDenoiser(function, mask_token, corruption)

    @functools.wraps(function)
    def allowed(tokens: Tensor, **condition: Any) -> Tensor:
        return without_tokens(function(tokens, **condition), forbidden)

    return FunctionDenoiser(allowed, mask_token, corruption)


class ClassifierFree:
    """Classifier-free guidance: (1 + weight) * conditional - weight * unconditional logits, two evaluations a call.

    Parameters:
        denoiser: the model, which takes the condition as keyword arguments.
        null_condition: replaces the condition's entries of the same name in the second evaluation; tensors of one row
            are expanded to the batch.
        weight: a number, or a function of the unmasked fraction in [0, 1] (a tensor [B]; 1 where the corruption is no
            mask) -> weight (a number or a tensor [B]).

    >>> def logits(tokens, bias):
    ...     return torch.zeros(*tokens.shape, 2) + torch.tensor([0.0, bias])
    >>> model = as_denoiser(logits, mask_token=2)
    >>> ClassifierFree(model, null_condition={"bias": 0.0}, weight=3.0)(torch.tensor([[2]]), bias=1.0)
    tensor([[[0., 4.]]])

    Reference: Ho & Salimans 2022, https://arxiv.org/abs/2207.12598.
    """

    def __init__(
        self, denoiser: Denoiser, *, null_condition: Condition, weight: float | Callable[[Tensor], float | Tensor]
    ) -> None:
        if not callable(weight):
            check_number("weight", weight)
        self.denoiser, self.weight = denoiser, weight
        self.null_condition = dict(null_condition)
        self.mask_token = denoiser.mask_token
        self.corruption = getattr(denoiser, "corruption", None)
        self.__wrapped__ = denoiser  # whose keyword arguments are the condition's
        self.evaluations_per_call = 2 * evaluations_per_call(denoiser)

    def __call__(self, tokens: Tensor, **condition: Any) -> Tensor:
        null = {key: _expanded(value, tokens.shape[0]) for key, value in self.null_condition.items()}
        conditional = wide(self.denoiser(tokens, **condition))
        unconditional = wide(self.denoiser(tokens, **{**condition, **null}))
        weight = self.weight
        if callable(weight):
            weight = weight((tokens != self.mask_token).to(conditional.dtype).mean(-1))
        if isinstance(weight, Tensor):
            weight = weight.reshape(-1, 1, 1)
        mixed = torch.lerp(unconditional, conditional, 1.0 + torch.as_tensor(weight).to(conditional))
        forbidden = (conditional == -torch.inf) | (unconditional == -torch.inf)
        return mixed.masked_fill(forbidden, -torch.inf)  # -inf minus -inf would be NaN


def carry_over(prior_logits: Float[Tensor, "B L V"], tokens: Int[Tensor, "B L"], frozen: Bool[Tensor, "B L"]) -> Tensor:
    """Prior logits whose frozen positions allow only their token: 0 there, -inf elsewhere in the row."""
    index = tokens.masked_fill(~frozen, 0).unsqueeze(-1)
    at_index = prior_logits.gather(-1, index).masked_fill(frozen.unsqueeze(-1), 0.0)
    if prior_logits.is_cpu and not prior_logits.requires_grad and 2 * int(frozen.sum()) > frozen.numel():
        out = spacious(prior_logits.shape, prior_logits).fill_(-torch.inf)  # copying what few rows are free costs less
        free = (~frozen).flatten().nonzero().squeeze(-1)
        out.flatten(0, -2).index_copy_(0, free, prior_logits.flatten(0, -2).index_select(0, free))
    else:
        out = prior_logits.masked_fill(frozen.unsqueeze(-1), -torch.inf)
    return out.scatter_(-1, index, at_index)


def prior_of(
    denoiser: Denoiser, tokens: Int[Tensor, "B L"], condition: Condition | None = None, *, temperature: float = 1.0
) -> Float[Tensor, "B L V"]:
    """The denoiser's logits at `temperature`, in float32 or wider, without gradient, checked.

    Raises ValueError if their shape does not fit the tokens, they hold NaN or +inf, or the column of the mask token
    (where there is one) is not impossible.
    """
    entries = entries_for(denoiser, condition or {})
    if "masked_fraction" not in entries and "masked_fraction" in (names_of(denoiser) or ()):
        entries["masked_fraction"] = (tokens == denoiser.mask_token).float().mean(-1)
    try:
        with torch.no_grad():
            logits = denoiser(tokens, **entries)
    except IndexError as error:
        ids = f"from {int(tokens.min())} to {int(tokens.max())}" if tokens.numel() else "(none)"
        raise IndexError(f"the denoiser failed on tokens {ids}: {error}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != tokens.shape:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the denoiser must map tokens {tuple(tokens.shape)} to logits [B, L, vocab_size], got {shape}"
        )
    if not logits.is_floating_point():
        raise TypeError(f"the denoiser must return floating logits, got {logits.dtype}")
    logits = wide(logits)
    top = logits.amax(-1)
    if not bool(torch.isfinite(top).all()):
        what = "NaN" if bool(torch.isnan(top).any()) else "+inf or a row with no possible token"
        raise ValueError(f"the denoiser's logits hold {what}; check its weights and its input")
    if denoiser.mask_token < logits.shape[-1] and bool((logits[..., denoiser.mask_token] > -torch.inf).any()):
        raise ValueError(
            f"mask_token {denoiser.mask_token} is inside the vocabulary of {logits.shape[-1]} and the denoiser gives "
            "it probability; set that column to -inf (from_masked_lm does)"
        )
    if temperature != 1.0:
        logits = (logits - top.unsqueeze(-1)) / temperature  # the largest becomes 0: nothing overflows
    return logits.detach()


def evaluations_per_call(denoiser: Denoiser) -> int:
    """Model evaluations that one call costs a sequence: 2 with classifier-free guidance."""
    return getattr(denoiser, "evaluations_per_call", 1)


def _expanded(value: Any, batch: int) -> Any:
    return value.expand(batch, *value.shape[1:]) if isinstance(value, Tensor) and value.ndim else value


def without_tokens(logits: Tensor, forbidden: list[int]) -> Tensor:
    """Logits whose columns of the forbidden tokens are -inf. Raises ValueError for one outside the vocabulary."""
    for token in forbidden:
        if token >= logits.shape[-1]:
            raise ValueError(f"forbidden token {token} lies outside the model's vocabulary of {logits.shape[-1]}")
    return logits.index_fill(-1, torch.tensor(forbidden, dtype=torch.long, device=logits.device), -torch.inf)


def checked_ids(tokens: Iterable[int]) -> list[int]:
    return [check_count("forbidden", token, 0) for token in tokens]
