"""Leave-one-out baselines on the gradient of the objective, for estimators whose Jacobian has mean J(p)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from catreparam.categorical import covariance_product
from catreparam.estimators.joint import leave_one_out


@dataclass
class BatchAxes:
    """How many leading axes of x are examples: known once the objective is evaluated, read by the backward pass."""

    count: int = 0


def with_baselines(samples: Tensor, probs: Tensor, weight: float | None, axes: BatchAxes) -> Tensor:
    """Samples [n, *batch, *variables, num_classes] whose Jacobians A_i see g_i - w b_i, b_i the mean of the others' g.

    The gradient becomes A_i (g_i - w b_i) + w J(p) b_i: since b_i is independent of x_i and A_i has mean J(p), its
    expectation stays. `weight` None regresses w from the gradients themselves, by cross-fitting: one half of the
    examples uses the weight fitted on the other half, so that w too is independent of x_i. With a single example w is
    0.
    """
    return _Baselined.apply(samples, probs, weight, axes)


class _Baselined(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(samples: Tensor, probs: Tensor, weight: float | None, axes: BatchAxes) -> Tensor:
        return samples.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        samples, probs, ctx.weight, ctx.axes = inputs
        ctx.save_for_backward(samples, probs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (upstream,) = gradients
        samples, probs = ctx.saved_tensors
        others = leave_one_out(upstream)
        weight = ctx.weight
        if weight is None:
            weight = cross_fitted_weight(
                upstream.detach(), others.detach(), samples.detach(), probs.detach(), ctx.axes.count
            )
        return upstream - weight * others, (weight * others).sum(0), None, None


def cross_fitted_weight(upstream: Tensor, others: Tensor, samples: Tensor, probs: Tensor, batch_axes: int) -> Tensor:
    """The weight that minimises the variance of the summed gradient: [*batch, 1, …], each half fitted on the other.

    Least squares of sum_i A_i g_i on sum_i (A_i - J) b_i with ReinMax's A_i = J + D_i / 2, D_i u = d <d, u> - J u, d =
    x - p; the deviations of the other methods are close to multiples of D_i.
    """
    d = samples - probs
    along = (d * (d * upstream).sum(-1, keepdim=True) + covariance_product(probs, upstream)) / 2
    control = (d * (d * others).sum(-1, keepdim=True) - covariance_product(probs, others)) / 2
    shape, control = probs.shape[:batch_axes], control.sum(0).float()
    moments = [(control * term).flatten(batch_axes).sum(-1).flatten() for term in (along.sum(0).float(), control)]
    even = torch.arange(moments[0].numel(), device=probs.device) % 2 == 0
    fits = []
    for half in (even, ~even):
        cross, square = (torch.where(half, moment, 0.0).sum() for moment in moments)
        fits.append(torch.where(square > 0, cross / square.clamp_min(1e-30), 0.0).clamp(0.0, 1.0))
    weight = torch.where(even, fits[1], fits[0]).reshape(shape)
    return weight.reshape((*shape, *(1,) * (probs.ndim - batch_axes))).to(probs.dtype)
