"""One verb for all estimators: the expectation of an objective, with the gradient of the estimator."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import attach_gradient, from_rows, to_rows
from catreparam.estimators.joint import Objective, evaluate
from catreparam.estimators.registry import ESTIMATORS, Estimator, make_estimator, takes_objective
from catreparam.validation import check_choice, check_count, check_generator, check_logits, check_number

# Estimators whose Jacobian has mean J(p), so that a leave-one-out baseline on the upstream gradient leaves the mean alone.
_COVARIANCE_ESTIMATORS = ("reinmax", "lambda_reinmax", "exact_redge", "transport_redge")
DEFAULT_BASELINE_WEIGHT = 0.8


def expectation(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    estimator: str | Callable[..., Tensor],
    num_samples: int = 1,
    baseline_weight: float | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*losses"]:
    """E[objective(x)], x ~ Categorical(softmax(logits)): the mean of `num_samples` draws, with the estimator's gradient.

    `objective` maps x [*batch, *variables, num_classes], one-hot and in the dtype of logits, to a loss [*batch] (or a
    scalar); the result has that shape. The axes between are variables, drawn jointly. Parameters inside the objective
    get their ordinary gradient. `estimator` is a name in ESTIMATORS, a made estimator, any function logits -> x, or any
    function (objective, logits, *, num_samples, mask, generator) -> loss.

    Several samples: reinmax, lambda_reinmax, exact_redge and transport_redge use leave-one-out baselines on the gradient
    of the objective, weighted by `baseline_weight` (default 0.8; 0 is the plain mean). The baseline acts on A - J(p) only,
    whose mean is zero (A the method's Jacobian), so the expected gradient stays as it was. For other methods a
    `baseline_weight` other than 0 or None is a ValueError.

    Cost:   num_samples evaluations of the objective, times the method's own factor.
    Raises: ValueError for an unknown name, num_samples < 1, or an objective whose loss has the wrong shape; TypeError or
            ValueError for bad logits, masks and generators.

    >>> logits = torch.zeros(5, 3, requires_grad=True)
    >>> loss = expectation(lambda x: x[..., 0], logits, estimator="reinmax", generator=torch.Generator().manual_seed(0))
    >>> loss.shape
    torch.Size([5])
    """
    check_count("num_samples", num_samples)
    check_logits(logits, dim)
    check_generator(generator, logits.device)
    method = _resolve(estimator)
    if dim % logits.ndim != logits.ndim - 1:
        inner = objective
        mask = None if mask is None else mask.expand(logits.shape).movedim(dim, -1)
        logits, objective = logits.movedim(dim, -1), lambda x: inner(x.movedim(-1, dim))
    weight = _baseline_weight(method, num_samples, baseline_weight)
    if takes_objective(method):
        return method(objective, logits, num_samples=num_samples, mask=mask, generator=generator)
    masked: dict[str, Any] = {} if mask is None else {"mask": mask}
    if num_samples == 1:
        return evaluate(objective, method(logits, generator=generator, **masked))
    samples = method(logits.expand(num_samples, *logits.shape), generator=generator, **masked)
    if weight:
        samples = _with_baselines(samples, from_rows(torch.softmax(to_rows(logits, mask), -1), logits), weight)
    return torch.stack([evaluate(objective, x) for x in samples]).mean(0)


def _resolve(estimator: str | Callable[..., Tensor]) -> Callable[..., Tensor]:
    if isinstance(estimator, str):
        return ESTIMATORS[check_choice("estimator", estimator, ESTIMATORS)]
    if not callable(estimator):
        raise TypeError(f"estimator must be a name or a callable, got {estimator!r}; see make_estimator")
    return estimator


def _baseline_weight(method: Callable[..., Tensor], num_samples: int, weight: float | None) -> float:
    function = method.func if isinstance(method, Estimator) else method
    tempered = isinstance(method, Estimator) and method.keywords.get("temperature", 1.0) != 1.0
    allowed = any(function is ESTIMATORS[name] for name in _COVARIANCE_ESTIMATORS) and not tempered
    if weight is None:
        return DEFAULT_BASELINE_WEIGHT if allowed and num_samples > 1 else 0.0
    weight = check_number("baseline_weight", weight, least=0.0, most=1.0)
    if weight and not allowed:
        raise ValueError(
            f"baseline_weight={weight} would bias {getattr(function, '__name__', function)!s}; it applies to "
            f"{', '.join(_COVARIANCE_ESTIMATORS)} (ReinMax at temperature 1) only, pass 0 or None"
        )
    return weight if num_samples > 1 else 0.0


def _with_baselines(samples: Tensor, probs: Tensor, weight: float) -> Tensor:
    """Mixes the gradients of samples [n, …] so that sample i's Jacobian A_i sees g_i minus weight times the others' mean.

    Gradient: sum_i A_i (g_i - w b_i) + w J(p) b_i with b_i the mean of g_j, j != i. Collecting the terms in g_j gives
    (1 + s) A_j - s sum_i A_i + w J(p), s = w / (n - 1): a linear mix of the attached gradients.
    """
    share = weight / (samples.shape[0] - 1)
    mixed = (1 + share) * samples - share * samples.sum(0, keepdim=True) + weight * probs
    return attach_gradient(samples, mixed)


__all__ = ["DEFAULT_BASELINE_WEIGHT", "expectation", "make_estimator"]
