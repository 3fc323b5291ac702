"""Exact-law ReDGE: draw the hard sample first, then the diffusion that leads to it; average over its noise."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import (
    Rows,
    attach_gradient,
    draw_antithetic_like,
    draw_one_hot,
    from_rows,
    second_order,
    tangent,
    to_rows,
)
from catreparam.estimators.facts import Choice, Range, estimator
from catreparam.hyperparameters import check_hyperparameter, for_rows
from catreparam.kernels import dispatch
from catreparam.kernels.methods import Method, Rule
from catreparam.kernels.naive.chain import denoise
from catreparam.kernels.naive.exact_law import sweep_tangent, transport_tangent
from catreparam.kernels.settings import Setting, remembered
from catreparam.noise_schedule import NoiseSchedule, make_schedule
from catreparam.validation import check_count, check_flag

SEARCH = {
    "t1": Range(0.3, 0.95, 0.5, grid=(0.35, 0.5, 0.7)),  # variance explodes below .3
    "num_noises": Choice((1, 2, 4, 8), 2, grid=(1, 4)),
    "second_order_weight": Range(0.0, 1.5, 1.0, grid=(0.0, 0.75, 1.0)),
}


@estimator(
    "Through the diffusion",
    mean_jacobian=lambda hyperparameters: True,
    search=SEARCH,
)
def exact_redge(
    logits: Float[Tensor, "*batch num_classes"],
    *,
    num_steps: int = 4,
    t1: float | Tensor = 0.5,
    grid: str = "lambda",
    num_noises: int = 1,
    second_order_weight: float | Tensor = 0.0,
    hard: bool = True,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws x ~ Categorical(softmax(logits)) exactly; its gradient is ReDGE's, averaged over noises given x.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        z ~ N(lambda_1 x, I), swept back along the diffusion with the adjoint on the way; the mean over
               `num_noises` draws of z in antithetic pairs. `second_order_weight` w in [0, 2] mixes ReinMax's rule into
               the last step, (1 - w/2) J(q) + (w/2)(x - q)(x - q)^T, for the direct and the path dependence alike.
    Bias:      none for linear f, and at w = 1 none for quadratic f (up to the sweep's second-order error). t1 -> 1 is
               straight-through (w = 0) or ReinMax (w = 1). The law of x is exact for any num_steps and t1.
    Cost:      about 3 (num_steps - 1) + 1 softmaxes per noise, one evaluation of f.
    Raises:    ValueError for num_steps < 1, num_noises < 1, t1 outside [1e-4, 1], weight outside [0, 2]; TypeError or
               ValueError for bad input.

    Stay at t1 >= .3: variance explodes below. hard=False returns the mean relaxed sample, with weight 0.

    >>> x = exact_redge(torch.zeros(8, 3), num_noises=4, generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    Source: this project; see `docs/estimators.md`. ReDGE: Gourevitch et al. 2026, https://arxiv.org/abs/2601.00781.
    """
    setting = exact_setting(num_steps, t1, grid, num_noises, second_order_weight, hard)
    return dispatch.sample(logits, mask, dim, generator, setting)


def exact_redge_surrogate(
    logits: Rows, *, noise: Tensor, x: Rows, schedule: NoiseSchedule, second_order_weight: float | Tensor = 0.0
) -> Rows:
    """Value: the mean relaxed sample. Gradient: exact-law ReDGE's for the hard sample x.

    `noise` is standard normal, [*batch, num_classes] or [num_noises, *batch, num_classes]: z = lambda_1 x + noise.
    """
    z = schedule.last * x + noise
    direct = tangent(logits)
    moved = sweep_tangent(logits, z, direct, schedule)
    return _read_off(logits, z, x, direct, moved, schedule.last, second_order_weight)


@estimator(
    "Through the diffusion",
    mean_jacobian=lambda hyperparameters: True,
    search=SEARCH,
    unsupported={
        "ONNX": "works in float64, for which ONNX Runtime has no error function; the export itself succeeds",
        "ONNX, traced": "the traced exporter has no scaled error function",
    },
    tuned=False,
)
def transport_redge(
    logits: Float[Tensor, "*batch num_classes"],
    *,
    t1: float | Tensor = 0.5,
    num_noises: int = 1,
    second_order_weight: float | Tensor = 0.0,
    hard: bool = True,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws x exactly; z given x moves with the logits along straight paths, in closed form: ReDGE without steps.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        z ~ N(lambda_1 x, I) is a Gaussian mixture whose exact pathwise gradient carries mass along the segments
               from p to every vertex; the relaxed sample softmax(logits + lambda_1 z) is differentiated through it.
    Bias:      none for linear f, and at second_order_weight = 1 none for quadratic f. The law of x is exact.
    Cost:      a few error functions per class and noise in float64; one evaluation of f.
    Raises:    ValueError for num_noises < 1, t1 outside [1e-4, 1], weight outside [0, 2]; TypeError or ValueError for
               bad input.

    >>> x = transport_redge(torch.zeros(8, 3), generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    Source: this project; see `docs/estimators.md`.
    """
    hard = check_flag("hard", hard)
    schedule = make_schedule("lambda", 1, check_hyperparameter("t1", t1, without_gradient="transport_redge"))
    weight = _check_weight("transport_redge", second_order_weight, hard)
    rows = to_rows(logits, mask, dim, generator)
    schedule = NoiseSchedule((for_rows("t1", schedule.last, rows, dim),))
    weight = for_rows("second_order_weight", weight, rows, dim)
    x = draw_one_hot(torch.softmax(rows, -1), generator)
    noise = draw_antithetic_like(rows, check_count("num_noises", num_noises), generator)
    surrogate = transport_redge_surrogate(rows, noise=noise, x=x, schedule=schedule, second_order_weight=weight)
    return from_rows(attach_gradient(x, surrogate) if hard else surrogate, logits, dim)


def transport_redge_surrogate(
    logits: Rows, *, noise: Tensor, x: Rows, schedule: NoiseSchedule, second_order_weight: float | Tensor = 0.0
) -> Rows:
    """Value: the mean relaxed sample. Gradient: transport ReDGE's for the hard sample x; only schedule.last is used.

    `noise` is standard normal, [*batch, num_classes] or [num_noises, *batch, num_classes]: z = lambda_1 x + noise.
    """
    z = schedule.last * x + noise
    direct = tangent(logits)
    moved = transport_tangent(logits, z, direct, schedule.last)
    return _read_off(logits, z, x, direct, moved, schedule.last, second_order_weight)


def _check_weight(estimator: str, weight: float | Tensor, hard: bool) -> float | Tensor:
    """The second-order weight, 0 for relaxed samples."""
    checked = check_hyperparameter("second_order_weight", weight, least=0.0, most=2.0, without_gradient=estimator)
    return checked if hard else 0.0


def _read_off(
    logits: Rows, z: Tensor, x: Rows, direct: Rows, moved: Tensor, lam: Any, second_order_weight: float | Tensor
) -> Rows:
    """The mean of softmax(logits + lambda z), with the gradient of its change along direct + lambda moved."""
    x_soft = denoise(z, logits.detach(), lam)
    change = second_order(x_soft, direct + lam * moved, x, second_order_weight)
    averaged = z.ndim > logits.ndim
    return attach_gradient(x_soft.mean(0), change.mean(0)) if averaged else attach_gradient(x_soft, change)


EXACT_REDGE = Method(exact_redge_surrogate, Rule.SWEEP)


@remembered
def exact_setting(
    num_steps: int, t1: float | Tensor, grid: str, num_noises: int, weight: float | Tensor, hard: bool
) -> Setting:
    """Raises TypeError or ValueError for bad hyperparameters."""
    hard = check_flag("hard", hard)
    lambdas = make_schedule(grid, num_steps, check_hyperparameter("t1", t1, without_gradient="exact_redge")).lambdas
    weight = _check_weight("exact_redge", weight, hard)
    return Setting(EXACT_REDGE, lambdas, hard=hard, num_noises=check_count("num_noises", num_noises), weight=weight)
