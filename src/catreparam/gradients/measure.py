"""Bias, variance, law and cost of an estimator's gradient, with standard errors."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.arguments import hands_on
from catreparam.categorical import from_rows, to_rows
from catreparam.estimators.facts import resolve
from catreparam.estimators.joint import Objective
from catreparam.estimators.registry import takes_objective
from catreparam.gradients.reference import Reference, draw_gradients, reference_gradient
from catreparam.validation import check_count, check_logits


@dataclass(frozen=True)
class GradientStats:
    """How one estimator's gradient of one objective compares with the reference; every figure is for one draw.

    squared_bias, variance and mse are relative to |reference|^2 (absolute where the reference vanishes). For time see
    `seconds_per_draw`, which measures several estimators in turn.

    Fields:
        num_draws: gradients that were drawn.
        num_samples: samples in each of them.
        squared_bias: squared distance of the mean gradient from the reference, without bias: it may fall below 0.
        squared_bias_stderr: standard error of squared_bias.
        variance: total variance of one draw: the trace of the covariance.
        variance_stderr: standard error of variance.
        mse: mean squared distance of one draw from the reference.
        mse_stderr: standard error of mse.
        cosine: between the mean gradient and the reference.
        mean_cosine: mean over draws of the cosine of one draw.
        mean_cosine_stderr: standard error of mean_cosine.
        z_score: largest |mean - reference| over its standard error, over entries.
        law_error: mean total variation between the law of the hard sample and softmax(logits); 0 for methods that take
            the objective and draw exactly.
        law_noise: what an exact law would show as law_error at this number of draws.
        memory: bytes that a draw kept for backward.
    """

    num_draws: int
    num_samples: int
    squared_bias: float
    squared_bias_stderr: float
    variance: float
    variance_stderr: float
    mse: float
    mse_stderr: float
    cosine: float
    mean_cosine: float
    mean_cosine_stderr: float
    z_score: float
    law_error: float
    law_noise: float
    memory: float


@hands_on
def measure(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    estimator: str | Callable[..., Tensor],
    num_draws: int = 10_000,
    num_samples: int | None = None,
    reference: Reference | Tensor | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
) -> GradientStats:
    """Draws the estimator's gradient `num_draws` times and compares it with the exact one (or a given reference).

    `objective` maps x [*any, *logits.shape] to [*any, …]: it must accept a leading axis of draws. `num_samples` is the
    number of samples inside one draw; None is the least that the estimator takes. Raises ValueError for num_draws < 2;
    TypeError or ValueError for bad input.

    >>> stats = measure(lambda x: x[..., 0], torch.zeros(3), estimator="rloo", num_samples=2, num_draws=200,
    ...                 generator=torch.Generator().manual_seed(0))
    >>> abs(stats.squared_bias) < 6 * stats.squared_bias_stderr
    True
    """
    check_count("num_draws", num_draws, minimum=2)
    check_logits(logits)
    resolved = resolve(estimator)
    method = resolved.function if isinstance(estimator, str) else estimator
    num_samples = resolved.facts.fewest_samples if num_samples is None else check_count("num_samples", num_samples)
    if reference is None:
        reference = reference_gradient(objective, logits, mask=mask, generator=generator)
    if isinstance(reference, Tensor):
        reference = Reference(reference)
    draws, memory = draw_gradients(objective, logits, method, num_draws, num_samples, mask, generator)
    law_error, law_noise = _law_error(logits, method, num_draws, mask, generator)
    return _statistics(draws, reference, num_samples, law_error, law_noise, memory)


def _law_error(
    logits: Tensor, method: Callable[..., Tensor], num_draws: int, mask: Tensor | None, generator: Generator | None
) -> tuple[float, float]:
    if takes_objective(method):
        return 0.0, 0.0
    masked = {} if mask is None else {"mask": mask}
    with torch.no_grad():
        x = method(logits.detach().expand(num_draws, *logits.shape), generator=generator, **masked)
        probs = from_rows(torch.softmax(to_rows(logits.detach(), mask), -1), logits).double()
    distance = (x.double().mean(0) - probs).abs().sum(-1) / 2
    expected = (2 / math.pi * probs * (1 - probs) / num_draws).sqrt().sum(-1) / 2
    return float(distance.mean()), float(expected.mean())


def _statistics(
    draws: Tensor,
    reference: Reference,
    num_samples: int,
    law_error: float,
    law_noise: float,
    memory: float,
) -> GradientStats:
    count = draws.shape[0]
    flat, target = draws.flatten(1), reference.gradient.double().flatten()
    mean = flat.mean(0)
    centred, offset = flat - mean, mean - target
    deviations = centred.square().sum(1)
    variance = float(deviations.sum()) / (count - 1)
    squared_bias = float(offset.square().sum()) - variance / count - reference.variance
    covariance = centred.T @ centred / (count - 1)
    bias_stderr = math.sqrt(
        max(4 * float(offset @ covariance @ offset) / count, 0.0)
        + 2 * float(covariance.square().sum()) / count**2
        + 2 * reference.variance**2
    )
    scale = float(target.square().sum()) - reference.variance
    scale = scale if scale > 1e-12 else 1.0
    variance_stderr = float(deviations.std()) / math.sqrt(count)
    cosines = torch.nn.functional.cosine_similarity(flat, target.unsqueeze(0), dim=1)
    spread = (covariance.diagonal() / count + reference.variance / flat.shape[1]).sqrt()
    rounding = 1e-6 * float(target.abs().max().clamp_min(float(mean.abs().max())))
    return GradientStats(
        num_draws=count,
        num_samples=num_samples,
        squared_bias=squared_bias / scale,
        squared_bias_stderr=bias_stderr / scale,
        variance=variance / scale,
        variance_stderr=variance_stderr / scale,
        mse=(squared_bias + variance) / scale,
        mse_stderr=math.hypot(bias_stderr, variance_stderr) / scale,
        cosine=float(torch.nn.functional.cosine_similarity(mean, target, dim=0)),
        mean_cosine=float(cosines.mean()),
        mean_cosine_stderr=float(cosines.std()) / math.sqrt(count),
        z_score=float((offset.abs() / (spread + rounding).clamp_min(1e-300)).max()),
        law_error=law_error,
        law_noise=law_noise,
        memory=memory,
    )
