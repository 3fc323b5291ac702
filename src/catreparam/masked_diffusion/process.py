"""A reverse process: a denoiser with the settings of its sampler, from the first masked tokens on."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from catreparam.masked_diffusion.denoiser import Condition, Denoiser, carry_over, evaluations_per_call, prior_of
from catreparam.masked_diffusion.steps import Unmasking, reverse_step
from catreparam.validation import check_generator, check_number


@dataclass(frozen=True, eq=False)
class ReverseProcess:
    """What stays the same over the rounds; `start` checks it. The loop is the caller's.

    >>> from catreparam.masked_diffusion import as_denoiser, draw_tokens
    >>> denoiser = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 9), mask_token=9)
    >>> tokens = torch.tensor([[9, 9, 4, 9]])
    >>> process = ReverseProcess.start(denoiser, tokens, Unmasking(num_rounds=3))
    >>> for round_index in range(3):
    ...     clean, log_prob = draw_tokens(process.prior(tokens))
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

    @staticmethod
    def start(
        denoiser: Denoiser,
        tokens: Int[Tensor, "B L"],
        unmasking: Unmasking,
        condition: Condition | None = None,
        temperature: float = 1.0,
        generator: Generator | None = None,
    ) -> "ReverseProcess":
        """The process that fills the masked positions of `tokens`. Raises TypeError or ValueError for bad input."""
        _check_tokens(tokens, denoiser)
        check_generator(generator, tokens.device)
        temperature = check_number("temperature", temperature, above=0.0)
        maskable = tokens == denoiser.mask_token
        return ReverseProcess(denoiser, unmasking, maskable, condition or {}, temperature, generator)

    @property
    def evaluations_per_round(self) -> int:
        """Model evaluations that `prior` costs a sequence."""
        return evaluations_per_call(self.denoiser)

    def masked(self, tokens: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Where tokens are masked."""
        return tokens == self.denoiser.mask_token

    def is_done(self, tokens: Int[Tensor, "B L"]) -> bool:
        """Whether no later round can change anything: nothing is masked, and nothing will be."""
        return self.unmasking.remask_sigma == 0 and not bool(self.masked(tokens).any())

    def prior(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
        """The denoiser's logits at the process's temperature, revealed tokens carried over; checked, no gradient."""
        logits = prior_of(self.denoiser, tokens, self.condition, temperature=self.temperature)
        return carry_over(logits, tokens, ~self.masked(tokens))

    def step(
        self, tokens: Int[Tensor, "B L"], clean: Int[Tensor, "B L"], log_prob: Float[Tensor, "B L"], round_index: int
    ) -> Int[Tensor, "B L"]:
        """The tokens after this round, see `reverse_step`."""
        return reverse_step(
            tokens,
            clean,
            log_prob,
            round_index=round_index,
            unmasking=self.unmasking,
            maskable=self.maskable,
            mask_token=self.denoiser.mask_token,
            generator=self.generator,
        )

    def revealed(self, before: Int[Tensor, "B L"], after: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Where a step has revealed tokens."""
        return self.masked(before) & ~self.masked(after)

    def repeated(self, times: int) -> "ReverseProcess":
        """The process for `times` copies of every sequence, side by side; tensors in the condition are repeated too."""
        return self._with_rows(lambda tensor: tensor.repeat_interleave(times, 0))

    def rows(self, start: int, stop: int) -> "ReverseProcess":
        """The process of the sequences start … stop - 1, their part of the condition included."""
        return self._with_rows(lambda tensor: tensor[start:stop])

    def _with_rows(self, change: Callable[[Tensor], Tensor]) -> "ReverseProcess":
        """The process after a change of every tensor that has a row for each sequence."""
        batch = self.maskable.shape[:1]
        condition = {
            key: change(value) if isinstance(value, Tensor) and value.shape[:1] == batch else value
            for key, value in self.condition.items()
        }
        return replace(self, maskable=change(self.maskable), condition=condition)


def _check_tokens(tokens: Tensor, denoiser: Denoiser) -> None:
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.long or tokens.ndim != 2:
        got = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"tokens must be a torch.long tensor [B, L], got {got}")
    if not hasattr(denoiser, "mask_token"):
        raise TypeError(f"a denoiser needs a mask_token, {type(denoiser).__name__} has none; wrap it by as_denoiser")
    if tokens.numel() and int(tokens.min()) < 0:
        raise ValueError(f"tokens must be at least 0, got {int(tokens.min())}; masked positions hold mask_token")
