"""ReinMax: the trapezoid rule for the gradient, half population and half one-sample covariance."""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import (
    Rows,
    covariance_product,
    second_order,
    softmax_at,
    tangent,
)
from catreparam.estimators.facts import Range, estimator
from catreparam.hyperparameters import check_hyperparameter
from catreparam.kernels import dispatch
from catreparam.kernels.methods import Method, Rule
from catreparam.kernels.settings import Setting, remembered


@estimator(
    "Straight-through and ReinMax",
    mean_jacobian=lambda hyperparameters: _is_one(hyperparameters.get("temperature", 1.0)),
    search={"temperature": Range(0.7, 1.5, 1.0, grid=(1.0, 1.25, 1.5))},
)
def reinmax(
    logits: Float[Tensor, "*batch num_classes"],
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws a one-hot x whose gradient is second-order accurate in the objective.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        2 J(m) g - J(p) g / 2 with g = grad f(x) and m = (softmax(logits / temperature) + x) / 2; at temperature
               1 this is [J(p) + (x - p)(x - p)^T] g / 2.
    Bias:      none for quadratic f at temperature 1; third order otherwise. The law of x is exact.
    Cost:      one softmax forward (two if temperature is not 1), a few O(num_classes) products backward.
    Raises:    ValueError unless temperature > 0; TypeError or ValueError for bad logits, masks and generators.

    >>> x = reinmax(torch.zeros(8, 3), generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    Reference: Liu et al. 2023, https://arxiv.org/abs/2304.08612.
    """
    return dispatch.sample(logits, mask, dim, generator, reinmax_setting(temperature))


def reinmax_surrogate(logits: Rows, *, x: Rows, temperature: float | Tensor = 1.0) -> Rows:
    """A tensor with ReinMax's gradient for the hard sample x [*batch, num_classes]. Its value means nothing."""
    middle = (tempered(logits, temperature) + x) / 2
    return 2 * covariance_product(middle, tangent(logits)) - torch.softmax(logits, -1) / 2


def tempered(logits: Rows, temperature: float | Tensor) -> Rows:
    """softmax(logits / temperature), detached."""
    return softmax_at(logits.detach(), _check_temperature(temperature))


@estimator(
    "Straight-through and ReinMax",
    mean_jacobian=lambda hyperparameters: True,
    search={"weight": Range(0.3, 1.5, 0.75, grid=(0.25, 0.5, 0.75))},
)
def lambda_reinmax(
    logits: Float[Tensor, "*batch num_classes"],
    *,
    weight: float | Tensor = 0.75,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws a one-hot x; its gradient lies between straight-through (weight 0) and ReinMax (weight 1).

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        (1 - w/2) J(p) g + (w/2) (x - p)(x - p)^T g with g = grad f(x).
    Bias:      a fraction 1 - w of straight-through's for quadratic f; variance falls with w. The law of x is exact.
    Cost:      one softmax forward, a few O(num_classes) products backward.
    Raises:    ValueError unless weight lies in [0, 2]; TypeError or ValueError for bad logits, masks and generators.

    >>> x = lambda_reinmax(torch.zeros(8, 3), weight=0.5, generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    Source: this project; see `docs/estimators.md`.
    """
    return dispatch.sample(logits, mask, dim, generator, lambda_reinmax_setting(weight))


def lambda_reinmax_surrogate(logits: Rows, *, x: Rows, weight: float | Tensor = 0.75) -> Rows:
    """A tensor whose ordinary gradient is lambda-ReinMax's for the hard sample x. Its value means nothing."""
    weight = _check_weight(weight)
    return second_order(torch.softmax(logits.detach(), -1), tangent(logits), x, weight)


REINMAX = Method(reinmax_surrogate, Rule.DIRECT)
LAMBDA_REINMAX = Method(lambda_reinmax_surrogate, Rule.DIRECT)


@remembered
def reinmax_setting(temperature: float | Tensor) -> Setting:
    """Raises what `check_hyperparameter` raises."""
    return Setting(REINMAX, temperature=_check_temperature(temperature), weight=1.0)


@remembered
def lambda_reinmax_setting(weight: float | Tensor) -> Setting:
    """Raises what `check_hyperparameter` raises."""
    return Setting(LAMBDA_REINMAX, weight=_check_weight(weight))


def _is_one(temperature: float | Tensor) -> bool:
    return not isinstance(temperature, Tensor) and temperature == 1.0


def _check_temperature(temperature: float | Tensor) -> float | Tensor:
    return check_hyperparameter("temperature", temperature, above=0.0, without_gradient="reinmax")


def _check_weight(weight: float | Tensor) -> float | Tensor:
    return check_hyperparameter("weight", weight, least=0.0, most=2.0, without_gradient="lambda_reinmax")
