"""ReinDGE (ReDGE-Max): ReDGE with ReinMax's second-order rule at the last step."""

from typing import Any

from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import (
    Rows,
    attach_gradient,
    draw_normal_like,
    draw_one_hot,
    second_order,
    tangent,
)
from catreparam.estimators.facts import estimator
from catreparam.estimators.redge import SEARCH, chain_setting
from catreparam.kernels import dispatch
from catreparam.kernels.methods import Method, Rule
from catreparam.kernels.naive.chain import denoise, solve
from catreparam.kernels.settings import Setting
from catreparam.noise_schedule import NoiseSchedule


@estimator(
    "Through the diffusion",
    law="ReDGE's",
    search=SEARCH,
)
def reindge(
    logits: Float[Tensor, "*batch num_classes"],
    *,
    num_steps: int = 4,
    t1: float | Tensor = 0.5,
    grid: str = "alpha",
    solver: str = "euler",
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws a one-hot x by ReDGE; at the last step the direct dependence on the logits uses ReinMax's Jacobian.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        straight-through along the path through z, [J(q) + (x - q)(x - q)^T] / 2 on the direct dependence, q =
               x0_hat.
    Bias:      less than `redge` for curved objectives; the law of x is redge's.
    Cost:      num_steps softmaxes forward and as many backward. No model is trained.
    Raises:    ValueError for num_steps < 1, t1 outside [1e-4, 1], unknown grid or solver; TypeError or ValueError for
               bad input.

    >>> x = reindge(torch.zeros(8, 3), generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    Reference: Gourevitch et al. 2026, https://arxiv.org/abs/2601.00781.
    """
    return dispatch.sample(logits, mask, dim, generator, chain_setting(REINDGE, num_steps, t1, grid, solver, True, 1.0))


def reindge_surrogate(logits: Rows, *, noise: Rows, x: Rows, schedule: NoiseSchedule, solver: str = "euler") -> Rows:
    """Value: the relaxed sample for normal noise [*batch, num_classes]. Gradient: ReinDGE's for the hard sample x."""
    z = _last_z(logits, noise, schedule, solver)
    return attach_gradient(denoise(z, logits, schedule.last), _surrogate_at(logits, z, x, schedule.last))


def _draw(setting: Setting, rows: Rows, generator: Generator | None) -> tuple[Rows, Rows]:
    """As ReDGE draws; the chain is run once for the law of x and for the gradient."""
    lam = setting.lambdas[-1]
    z = _last_z(rows, draw_normal_like(rows, generator), NoiseSchedule(setting.lambdas), setting.solver)
    x = draw_one_hot(denoise(z, rows, lam), generator)
    return x, _surrogate_at(rows, z, x, lam)


def _last_z(logits: Rows, noise: Rows, schedule: NoiseSchedule, solver: str) -> Rows:
    return solve(lambda z, lam: denoise(z, logits, lam), noise, schedule, solver)


def _surrogate_at(logits: Rows, z: Rows, x: Rows, lam: Any) -> Rows:
    path = denoise(z, logits.detach(), lam)
    direct = second_order(path.detach(), tangent(logits), x)
    return path + direct


REINDGE = Method(reindge_surrogate, Rule.CHAIN, _draw)
