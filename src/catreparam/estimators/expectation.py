"""One verb for all estimators: the expectation of an objective, with the gradient of the estimator.

Several samples get leave-one-out baselines on the objective's gradient, where the Jacobian has mean J(p).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.arguments import hands_on
from catreparam.categorical import covariance_product, from_rows, to_rows
from catreparam.estimators.facts import ESTIMATORS, Resolved, facts_of, resolve, takes_argument
from catreparam.estimators.joint import Objective, evaluate, leave_one_out
from catreparam.kernels.tracing import unscriptable
from catreparam.validation import check_count, check_generator, check_logits, check_mask, check_number, is_recorded


@unscriptable
@hands_on
def expectation(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    estimator: str | Callable[..., Tensor],
    num_samples: int | None = None,
    baseline_weight: float | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*losses"]:
    """E[objective(x)], x ~ Categorical(softmax(logits)): a mean of `num_samples` draws with the estimator's gradient.

    `objective` maps x [*batch, *variables, num_classes], one-hot and in the dtype of logits, to a loss [*batch] (or a
    scalar); the result has that shape. The axes between are variables, drawn jointly. Parameters inside the objective
    get their ordinary gradient. `estimator` is a name in ESTIMATORS, a made estimator, any function logits -> x, or any
    function (objective, logits, *, num_samples, mask, generator) -> loss. `num_samples` None is the least that the
    estimator takes: 2 for rloo and reinmax_rloo, else 1. A function logits -> x is handed `generator`
    and `mask` if it takes them; otherwise it draws as it pleases, from logits that are -inf where masked.

    Several samples: reinmax, lambda_reinmax, exact_redge and transport_redge use leave-one-out baselines on the
    gradient of the objective. They act on A - J(p) only, whose mean is zero (A the method's Jacobian), so that the
    expected gradient stays. `baseline_weight` None fits their weight on the gradients themselves (cross-fitted over
    examples; 0 with a single example), 0 is the plain mean, which torch.jit.trace and make_fx always record. For other
    methods a weight other than 0 or None is a ValueError.

    Cost:   num_samples evaluations of the objective, times the method's own factor.
    Raises: ValueError for an unknown name, num_samples < 1, or an objective whose loss has the wrong shape; TypeError
            or ValueError for bad logits, masks and generators.

    >>> logits = torch.zeros(5, 3, requires_grad=True)
    >>> loss = expectation(lambda x: x[..., 0], logits, estimator="reinmax", generator=torch.Generator().manual_seed(0))
    >>> loss.shape
    torch.Size([5])
    """
    resolved = resolve(estimator)
    num_samples = resolved.facts.fewest_samples if num_samples is None else check_count("num_samples", num_samples)
    check_logits(logits, dim)
    check_generator(generator, logits.device)
    if mask is not None:
        check_mask(mask, logits)
    method = resolved.function if isinstance(estimator, str) else estimator
    if dim % logits.ndim != logits.ndim - 1:
        inner = objective
        mask = None if mask is None else mask.expand(logits.shape).movedim(dim, -1)
        logits, objective = logits.movedim(dim, -1), lambda x: inner(x.movedim(-1, dim))
    baselined = _allows_baselines(resolved, baseline_weight) and num_samples > 1 and baseline_weight != 0
    if resolved.facts.takes_objective:
        return method(objective, logits, num_samples=num_samples, mask=mask, generator=generator)
    own = bool(resolved.facts.family)
    given: dict[str, Any] = {"generator": generator} if own or takes_argument(method, "generator") else {}
    if mask is not None and (own or takes_argument(method, "mask")):
        given["mask"] = mask
    elif mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    if num_samples == 1:
        return evaluate(objective, method(logits, **given), kept=not own)
    samples = method(logits.expand(num_samples, *logits.shape), **given)
    axes = BatchAxes()
    if baselined and not is_recorded():
        probs = from_rows(torch.softmax(to_rows(logits, mask), -1), logits)
        samples = with_baselines(samples, probs, baseline_weight, axes)
    losses = [evaluate(objective, x) for x in samples]
    axes.count = losses[0].ndim
    return torch.stack(losses).mean(0)


def _allows_baselines(resolved: Resolved, weight: float | None) -> bool:
    allowed = resolved.facts.mean_jacobian(resolved.hyperparameters)
    if weight is not None and check_number("baseline_weight", weight, least=0.0, most=1.0) and not allowed:
        others = ", ".join(name for name in ESTIMATORS if facts_of(name).mean_jacobian({}))
        raise ValueError(
            f"baseline_weight={weight} would bias {resolved.facts.name}; it applies to {others} "
            "(ReinMax at temperature 1) only, pass 0 or None"
        )
    return allowed


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
