"""A reverse process: a denoiser with the settings of its sampler, from the first masked tokens on."""

import functools
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from catreparam.masked_diffusion.conditions import (
    Condition,
    check_condition,
    entries_for,
    names_of,
    per_sequence_entries,
    picked,
)
from catreparam.masked_diffusion.corruption import Corruption, Masked
from catreparam.masked_diffusion.denoiser import Denoiser, carry_over, evaluations_per_call, prior_of
from catreparam.masked_diffusion.steps import Unmasking
from catreparam.masked_diffusion.tokens import draw_tokens
from catreparam.validation import check_generator, check_number


@dataclass(frozen=True, eq=False)
class ReverseProcess:
    """What stays the same over the rounds; `start` checks it. The loop is the caller's.

    Parameters:
        denoiser: the model.
        unmasking: the settings, see `Unmasking`.
        maskable: [B, L], True where tokens are generated.
        condition: entries by name, for the denoiser and the reward.
        temperature: divides the denoiser's logits.
        generator: of all draws; None: torch's own.
        per_sequence: the condition's entries that have a row for each sequence; None: not said, see
            `per_sequence_entries`.

    >>> from catreparam.masked_diffusion import as_denoiser
    >>> denoiser = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 9), mask_token=9)
    >>> tokens = torch.tensor([[9, 9, 4, 9]])
    >>> process = ReverseProcess.start(denoiser, tokens, Unmasking(num_rounds=3))
    >>> for round_index in range(3):
    ...     clean, log_prob = process.draw(process.prior(tokens, round_index), tokens)
    ...     tokens = process.step(tokens, clean, log_prob, round_index)
    >>> process.is_done(tokens), int(tokens[0, 2])
    (True, 4)
    """

    denoiser: Denoiser
    unmasking: Unmasking
    maskable: Bool[Tensor, "B L"]
    condition: Condition
    temperature: float
    generator: Generator | None
    per_sequence: Collection[str] | None = None

    @staticmethod
    def start(
        denoiser: Denoiser,
        tokens: Int[Tensor, "B L"],
        unmasking: Unmasking,
        condition: Condition | None = None,
        temperature: float = 1.0,
        generator: Generator | None = None,
        *,
        reward: Callable[..., Any] | None = None,
        per_sequence: Collection[str] | None = None,
    ) -> "ReverseProcess":
        """The process that fills the masked positions of `tokens`. Raises TypeError or ValueError for bad input.

        Each entry of the condition goes to the denoiser and to the `reward`, whichever takes an argument of that name.
        Warns where no position is masked: then nothing is generated.
        """
        _check_tokens(tokens, denoiser)
        check_generator(generator, tokens.device)
        check_number("temperature", temperature, least=torch.finfo(torch.float32).tiny)
        condition = condition or {}
        check_condition(condition, denoiser, *([] if reward is None else [reward]))
        if per_sequence is not None:
            per_sequence = per_sequence_entries(condition, tokens.shape[0], per_sequence)
        maskable = tokens == denoiser.mask_token
        _corruption(denoiser).check(unmasking, denoiser.mask_token)
        unmasking.rounds_of_block(maskable)
        if tokens.numel() and not bool(maskable.any()):
            warnings.warn(
                f"no position of tokens holds the mask token {denoiser.mask_token}: nothing is generated. "
                f"Their ids reach from {int(tokens.min())} to {int(tokens.max())}; check mask_token",
                stacklevel=3,
            )
        return ReverseProcess(denoiser, unmasking, maskable, condition, temperature, generator, per_sequence)

    @property
    def evaluations_per_round(self) -> int:
        """Model evaluations that `prior` costs a sequence."""
        return evaluations_per_call(self.denoiser)

    @property
    def corruption(self) -> Corruption:
        """What the model was trained to undo."""
        return _corruption(self.denoiser)

    def limit(self, tokens: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """The tokens of the first round: as they are given, or in uniform-state diffusion drawn where masked."""
        return self.corruption.limit(tokens, self.maskable, self.generator)

    def masked(self, tokens: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Where tokens are still to be decided: the masked ones, or in uniform-state diffusion all generated ones."""
        return self.corruption.undecided(tokens, self.maskable)

    def is_done(self, tokens: Int[Tensor, "B L"]) -> bool:
        """Whether no later round can change anything: nothing is masked, and nothing will be."""
        return self.unmasking.remask_sigma == 0 and not bool(self.masked(tokens).any())

    def prior(self, tokens: Int[Tensor, "B L"], round_index: int = 0) -> Float[Tensor, "B L V"]:
        """The denoiser's logits at the process's temperature, revealed tokens carried over; checked, no gradient.

        A denoiser that takes a `noise_level` is told that of the schedule before the round.
        """
        condition = self.condition
        if "noise_level" not in condition and "noise_level" in (names_of(self.denoiser) or ()):
            level, _ = self.unmasking.noise_levels(min(round_index, self.unmasking.num_rounds - 1))
            condition = {**condition, "noise_level": torch.full(tokens.shape[:1], level, device=tokens.device)}
        logits = prior_of(self.denoiser, tokens, condition, temperature=self.temperature)
        _check_inside(tokens, logits.shape[-1], self.denoiser.mask_token)
        return carry_over(logits, tokens, ~self.masked(tokens))

    def vocab_size(self, tokens: Int[Tensor, "B L"]) -> int:
        """The last axis of the denoiser's logits, for callers who had no round to see it. Cost: one evaluation."""
        return self.prior(tokens).shape[-1]

    def bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, a reward say, with the entries of the condition that it takes."""
        entries = entries_for(function, self.condition)
        return functools.partial(function, **entries) if entries else function

    def draw(
        self, logits: Float[Tensor, "B L V"], tokens: Int[Tensor, "B L"]
    ) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
        """Tokens drawn from the logits where they are undecided, the given ones elsewhere; and their log-probabilities.

        These are in float32, zero at given tokens, which cost nothing.
        """
        masked = self.masked(tokens)
        drawn, log_prob = draw_tokens(logits[masked], self.generator)
        zeros = torch.zeros(tokens.shape, device=tokens.device)
        return tokens.masked_scatter(masked, drawn), zeros.masked_scatter(masked, log_prob)

    def step(
        self,
        tokens: Int[Tensor, "B L"],
        clean: Int[Tensor, "B L"],
        log_prob: Float[Tensor, "B L"],
        round_index: int,
        *,
        prior: Float[Tensor, "B L V"] | None = None,
        logits: Float[Tensor, "B L V"] | None = None,
    ) -> Int[Tensor, "B L"]:
        """The tokens after this round, see `reverse_step`; `prior` and the `logits` drawn from are for orders."""
        settings = {"round_index": round_index, "unmasking": self.unmasking, "maskable": self.maskable}
        settings |= {"generator": self.generator, "temperature": self.temperature}
        settings |= {"logits": prior if logits is None else logits, "prior": prior}
        return self.corruption.step(tokens, clean, log_prob, settings)

    def completed(self, tokens: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """Proposed tokens as they would be left: with padding behind the end of a text."""
        return self.unmasking.ended(tokens, self.maskable)

    def transition(
        self, logits: Float[Tensor, "N V"], tokens: Int[Tensor, " N"], round_index: int, *, last: bool = False
    ) -> Float[Tensor, "N V"]:
        """Logits of what a round's step draws at single positions, see `Corruption`."""
        before, after = self.unmasking.noise_levels(round_index)
        return self.corruption.transition(logits, tokens, before, 0.0 if last else after)

    def window(self, tokens: Int[Tensor, "B L"], round_index: int) -> Bool[Tensor, "B L"]:
        """Where a round may reveal tokens: the masked positions, with blocks those of the present one."""
        masked = self.masked(tokens)
        return masked & self.unmasking.window(masked, self.maskable, round_index)

    def decided(
        self, before: Int[Tensor, "B L"], after: Int[Tensor, "B L"], *, last: bool
    ) -> tuple[Bool[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Where a step has fixed tokens, and where it has drawn any; not padding behind an end, which follows."""
        fixed, drawn = self.corruption.decided(before, after, self.maskable, last=last)
        if self.unmasking.end_token is None:
            return fixed, drawn
        free = ~self.unmasking.past_end(after, self.maskable)
        return fixed & free, drawn & free

    def revealed(
        self, before: Int[Tensor, "B L"], after: Int[Tensor, "B L"], round_index: int = 0
    ) -> Bool[Tensor, "B L"]:
        """Where a round's step has drawn the final token."""
        return self.decided(before, after, last=round_index + 1 >= self.unmasking.num_rounds)[0]

    def repeated(self, times: int) -> "ReverseProcess":
        """The process for `times` copies of every sequence, side by side, their part of the condition included."""
        return self._with_rows([row for row in range(self.maskable.shape[0]) for _ in range(times)])

    def rows(self, start: int, stop: int) -> "ReverseProcess":
        """The process of the sequences start … stop - 1, their part of the condition included."""
        return self._with_rows(list(range(self.maskable.shape[0]))[start:stop])

    def _with_rows(self, index: list[int]) -> "ReverseProcess":
        """The process of the sequences at these places, the condition's entries that belong to them included."""
        batch = self.maskable.shape[0]
        if index == list(range(batch)):
            return self
        belong = per_sequence_entries(self.condition, batch, self.per_sequence)
        condition = {key: picked(value, index) if key in belong else value for key, value in self.condition.items()}
        return replace(self, maskable=self.maskable[index], condition=condition, per_sequence=belong)


def is_masked(denoiser: Denoiser) -> bool:
    """Whether a denoiser is of masked diffusion."""
    return isinstance(_corruption(denoiser), Masked)


def _corruption(denoiser: Denoiser) -> Corruption:
    return getattr(denoiser, "corruption", None) or Masked(getattr(denoiser, "mask_token", -1))


def _check_tokens(tokens: Tensor, denoiser: Denoiser) -> None:
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.long or tokens.ndim != 2:
        got = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"tokens must be a torch.long tensor [B, L], got {got}")
    if not hasattr(denoiser, "mask_token"):
        raise TypeError(f"a denoiser needs a mask_token, {type(denoiser).__name__} has none; wrap it by as_denoiser")
    if tokens.numel() and int(tokens.min()) < 0:
        raise ValueError(f"tokens must be at least 0, got {int(tokens.min())}; masked positions hold mask_token")


def _check_inside(tokens: Tensor, vocab_size: int, mask_token: int) -> None:
    outside = tokens[(tokens >= vocab_size) & (tokens != mask_token)]
    if outside.numel():
        raise ValueError(
            f"tokens must lie in [0, {vocab_size}) or be the mask token {mask_token}, got {int(outside[0])}"
        )
