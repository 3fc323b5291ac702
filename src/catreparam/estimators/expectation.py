"""One verb for all estimators: the expectation of an objective, with the gradient of the estimator."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import from_rows, to_rows
from catreparam.estimators.baselines import BatchAxes, with_baselines
from catreparam.estimators.facts import ESTIMATORS, Resolved, facts_of, resolve
from catreparam.estimators.joint import Objective, evaluate
from catreparam.validation import check_count, check_generator, check_logits, check_mask, check_number


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
    """E[objective(x)], x ~ Categorical(softmax(logits)): a mean of `num_samples` draws with the estimator's gradient.

    `objective` maps x [*batch, *variables, num_classes], one-hot and in the dtype of logits, to a loss [*batch] (or a
    scalar); the result has that shape. The axes between are variables, drawn jointly. Parameters inside the objective
    get their ordinary gradient. `estimator` is a name in ESTIMATORS, a made estimator, any function logits -> x, or any
    function (objective, logits, *, num_samples, mask, generator) -> loss.

    Several samples: reinmax, lambda_reinmax, exact_redge and transport_redge use leave-one-out baselines on the
    gradient of the objective. They act on A - J(p) only, whose mean is zero (A the method's Jacobian), so that the
    expected gradient stays. `baseline_weight` None fits their weight on the gradients themselves (cross-fitted over
    examples; 0 with a single example), 0 is the plain mean. For other methods a weight other than 0 or None is a
    ValueError.

    Cost:   num_samples evaluations of the objective, times the method's own factor.
    Raises: ValueError for an unknown name, num_samples < 1, or an objective whose loss has the wrong shape; TypeError
            or ValueError for bad logits, masks and generators.

    >>> logits = torch.zeros(5, 3, requires_grad=True)
    >>> loss = expectation(lambda x: x[..., 0], logits, estimator="reinmax", generator=torch.Generator().manual_seed(0))
    >>> loss.shape
    torch.Size([5])
    """
    check_count("num_samples", num_samples)
    check_logits(logits, dim)
    check_generator(generator, logits.device)
    if mask is not None:
        check_mask(mask, logits)
    resolved = resolve(estimator)
    method = resolved.function if isinstance(estimator, str) else estimator
    if dim % logits.ndim != logits.ndim - 1:
        inner = objective
        mask = None if mask is None else mask.expand(logits.shape).movedim(dim, -1)
        logits, objective = logits.movedim(dim, -1), lambda x: inner(x.movedim(-1, dim))
    baselined = _allows_baselines(resolved, baseline_weight) and num_samples > 1 and baseline_weight != 0
    if resolved.facts.takes_objective:
        return method(objective, logits, num_samples=num_samples, mask=mask, generator=generator)
    masked: dict[str, Any] = {} if mask is None else {"mask": mask}
    if num_samples == 1:
        return evaluate(objective, method(logits, generator=generator, **masked))
    samples = method(logits.expand(num_samples, *logits.shape), generator=generator, **masked)
    axes = BatchAxes()
    if baselined:
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
