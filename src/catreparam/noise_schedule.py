"""Noise schedules: a diffusion's discretisation is nothing but an increasing grid of lambda = alpha / sigma."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from catreparam.hyperparameters import check_hyperparameter
from catreparam.validation import check_choice, check_count, check_number

SMALLEST_T1 = 1e-4  # below, powers of lambda in the adjoint leave the range of float32; every use is far above


@dataclass(frozen=True)
class NoiseSchedule:
    """An increasing grid of lambda = alpha_t / sigma_t, from (nearly) pure noise to the smallest noisy time t1.

    Parameters:
        lambdas: one entry per denoiser evaluation, increasing; the last is where the relaxed sample is read off. A
            single entry feeds the noise straight into that last evaluation.

    Raises ValueError if lambdas is empty, decreases anywhere, or holds a negative or non-finite number. Tensors, one
    value a row, are not looked at.

    >>> NoiseSchedule((0.0, 0.5, 1.0)).num_steps
    3
    """

    lambdas: tuple[Any, ...]

    def __post_init__(self) -> None:
        if any(isinstance(value, Tensor) for value in self.lambdas):
            return
        lambdas = tuple(check_number("lambda", float(value), least=0.0) for value in self.lambdas)
        if not lambdas:
            raise ValueError("a noise schedule needs at least one lambda, got none")
        if any(b < a for a, b in zip(lambdas, lambdas[1:], strict=False)):
            raise ValueError(f"lambdas must not decrease (noise first), got {lambdas}; sort them")
        object.__setattr__(self, "lambdas", lambdas)

    @classmethod
    def from_alphas(
        cls, alphas: Sequence[float] | Tensor, sigmas: Sequence[float] | Tensor | None = None
    ) -> "NoiseSchedule":
        """The schedule of a grid given as the paper gives it: alphas (and sigmas, 1 - alpha if left out).

        Either order is understood. The clean end (sigma = 0) is dropped: no denoiser is evaluated there.

        >>> NoiseSchedule.from_alphas([1.0, 0.5, 0.0]).lambdas
        (0.0, 1.0)
        """
        alphas = [float(value) for value in alphas]
        sigmas = [1.0 - value for value in alphas] if sigmas is None else [float(value) for value in sigmas]
        if len(alphas) != len(sigmas):
            raise ValueError(f"alphas and sigmas must have the same length, got {len(alphas)} and {len(sigmas)}")
        for alpha, sigma in zip(alphas, sigmas, strict=True):
            check_number("alpha", alpha, least=0.0, most=1.0)
            check_number("sigma", sigma, least=0.0)
        return cls(tuple(sorted(a / s for a, s in zip(alphas, sigmas, strict=True) if s > 0)))

    @property
    def num_steps(self) -> int:
        """Denoiser evaluations, the one that makes the relaxed sample included."""
        return len(self.lambdas)

    @property
    def last(self) -> Any:
        """lambda at t1, where the relaxed sample is read off."""
        return self.lambdas[-1]

    def intervals(self) -> Iterator[tuple[Any, Any]]:
        """Consecutive pairs (start, end), noise first."""
        return zip(self.lambdas, self.lambdas[1:], strict=False)


def alpha_grid(num_steps: int = 4, t1: float = 0.5) -> NoiseSchedule:
    """Uniform in alpha from 0 to 1 - t1: the paper's grid (whose n_steps is num_steps + 1)."""
    return make_schedule("alpha", num_steps, t1)


def lambda_grid(num_steps: int = 4, t1: float = 0.5) -> NoiseSchedule:
    """Uniform in lambda from 0 to (1 - t1) / t1."""
    return make_schedule("lambda", num_steps, t1)


def quadratic_grid(num_steps: int = 4, t1: float = 0.5) -> NoiseSchedule:
    """Quadratic in lambda, dense near pure noise: lambda_1 (i / m)^2."""
    return make_schedule("quadratic", num_steps, t1)


def make_schedule(grid: str, num_steps: int, t1: float | Tensor) -> NoiseSchedule:
    """The schedule called `grid` (alpha | lambda | quadratic) with `num_steps` denoiser evaluations, t1 in [1e-4, 1].

    t1 = 1 is pure noise: lambda is 0 throughout and every ReDGE becomes straight-through. A tensor t1 makes tensors of
    lambda.

    >>> make_schedule("alpha", 3, 0.5).lambdas
    (0.0, 0.3333333333333333, 1.0)
    """
    t1 = check_hyperparameter("t1", t1, least=SMALLEST_T1, most=1.0)
    return NoiseSchedule(spaced(grid, num_steps, t1, torch.minimum if isinstance(t1, Tensor) else min))


def spaced(grid: str, num_steps: int, t1: Any, minimum: Callable[[Any, Any], Any]) -> tuple[Any, ...]:
    """The lambdas of `make_schedule` for a t1 that was checked: a number, or rows of torch or of JAX."""
    spacing = GRIDS[check_choice("grid", grid, GRIDS)]
    num_steps = check_count("num_steps", num_steps)
    top = (1.0 - t1) / t1
    return (*(minimum(spacing(i / (num_steps - 1), top), top) for i in range(num_steps - 1)), top)


def _uniform_in_alpha(fraction: float, top: Any) -> Any:
    alpha = fraction * top / (1.0 + top)
    return alpha / (1.0 - alpha)


GRIDS: dict[str, Callable[[float, Any], Any]] = {
    "alpha": _uniform_in_alpha,
    "lambda": lambda fraction, top: fraction * top,
    "quadratic": lambda fraction, top: fraction * fraction * top,
}
