"""ReinMax with less variance: Rao-Blackwellised, and with a Gumbel control variate."""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import (
    Rows,
    attach_gradient,
    conditional_gumbel,
    draw_exponential_like,
    draw_one_hot,
    from_rows,
    softmax_at,
    tangent,
    to_rows,
)
from catreparam.estimators.facts import Choice, Range, estimator
from catreparam.estimators.gumbel_rao import gumbel_rao_surrogate
from catreparam.estimators.reinmax import reinmax_surrogate
from catreparam.hyperparameters import check_hyperparameter, for_rows
from catreparam.validation import check_count


@estimator(
    "Straight-through and ReinMax",
    search={"temperature": Range(0.1, 2.0, 0.5, log=True), "num_noises": Choice((10, 100), 10)},
    tuned=False,
)
def reinmax_rao(
    logits: Float[Tensor, "*batch num_classes"],
    *,
    temperature: float | Tensor = 0.5,
    num_noises: int = 10,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws a one-hot x; ReinMax with the Gumbel-Rao Jacobian in place of the exact one at the midpoint.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        2 J_GR g - J(p) g / 2, J_GR being Gumbel-Rao's Jacobian at probabilities m = (p + x) / 2 given x.
    Bias:      that of Gumbel-Rao at m; falls with temperature, while variance grows. The law of x is exact.
    Cost:      num_noises softmaxes forward and backward; one evaluation of f. Memory num_noises times the logits.
    Raises:    ValueError unless temperature > 0 and num_noises >= 1; TypeError or ValueError for bad input.

    >>> x = reinmax_rao(torch.zeros(8, 3), generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    Reference: Wang and Bui 2026, https://arxiv.org/abs/2603.08257.
    """
    num_noises = check_count("num_noises", num_noises)
    rows = to_rows(logits, mask, dim, generator)
    x = draw_one_hot(torch.softmax(rows, -1), generator)
    noise = draw_exponential_like(rows.expand(num_noises, *rows.shape), generator)
    temperature = for_rows("temperature", temperature, rows, dim)
    surrogate = reinmax_rao_surrogate(rows, noise=noise, x=x, temperature=temperature)
    return from_rows(attach_gradient(x, surrogate), logits, dim)


def reinmax_rao_surrogate(logits: Rows, *, noise: Tensor, x: Rows, temperature: float | Tensor = 0.5) -> Rows:
    """A tensor whose ordinary gradient is ReinMax-Rao's. `noise`: Exponential(1) [num_noises, *batch, num_classes]."""
    temperature = check_hyperparameter("temperature", temperature, above=0.0, without_gradient="reinmax_rao")
    probs = torch.softmax(logits, -1)
    perturbed = conditional_gumbel(((probs.detach() + x) / 2).log(), x, noise)
    at_middle = softmax_at(perturbed + tangent(logits), temperature).mean(0)
    return 2 * at_middle - probs / 2


@estimator(
    "Straight-through and ReinMax",
    search={"temperature": Range(0.1, 2.0, 0.5, log=True), "eta": Range(0.0, 1.0, 0.1)},
    tuned=False,
)
def reinmax_cv(
    logits: Float[Tensor, "*batch num_classes"],
    *,
    temperature: float | Tensor = 0.5,
    num_noises: int = 10,
    eta: float | Tensor = 0.1,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws a one-hot x; ReinMax plus eta times the difference of two Gumbel gradients with equal means.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        ReinMax + eta (J_GR - J_STGS) g, Gumbel-Rao minus straight-through Gumbel-Softmax for the same x.
    Bias:      ReinMax's: the added term has mean zero. The law of x is exact.
    Cost:      num_noises + 1 softmaxes forward and backward; one evaluation of f.
    Raises:    ValueError unless temperature > 0 and num_noises >= 1; TypeError or ValueError for bad input.
    Note:      given x the added term has mean zero while ReinMax is fixed, so that the two are uncorrelated: it cannot
               lower the variance of this gradient. Kept because it was published; eta=0 is ReinMax.

    >>> x = reinmax_cv(torch.zeros(8, 3), generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    Reference: Wang and Bui 2026, https://arxiv.org/abs/2603.08257.
    """
    num_noises = check_count("num_noises", num_noises)
    rows = to_rows(logits, mask, dim, generator)
    x = draw_one_hot(torch.softmax(rows, -1), generator)
    noise = draw_exponential_like(rows.expand(num_noises + 1, *rows.shape), generator)
    temperature, eta = for_rows("temperature", temperature, rows, dim), for_rows("eta", eta, rows, dim)
    surrogate = reinmax_cv_surrogate(rows, noise=noise, x=x, temperature=temperature, eta=eta)
    return from_rows(attach_gradient(x, surrogate), logits, dim)


def reinmax_cv_surrogate(
    logits: Rows, *, noise: Tensor, x: Rows, temperature: float | Tensor = 0.5, eta: float | Tensor = 0.1
) -> Rows:
    """A tensor whose ordinary gradient is ReinMax-CV's. `noise`: Exponential(1) [1 + num_noises, *batch, num_classes].

    The first noise serves straight-through Gumbel-Softmax, the others Gumbel-Rao.
    """
    temperature = check_hyperparameter("temperature", temperature, above=0.0, without_gradient="reinmax_cv")
    eta = check_hyperparameter("eta", eta, least=-1e6, most=1e6, without_gradient="reinmax_cv")
    averaged = gumbel_rao_surrogate(logits, noise=noise[1:], x=x, temperature=temperature)
    single = gumbel_rao_surrogate(logits, noise=noise[:1], x=x, temperature=temperature)
    return reinmax_surrogate(logits, x=x) + eta * (averaged - single)
