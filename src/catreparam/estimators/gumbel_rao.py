"""Gumbel-Rao: straight-through Gumbel-Softmax averaged over the noise that leads to the same hard sample."""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import (
    Rows,
    attach_gradient,
    conditional_gumbel,
    draw_exponential_like,
    from_rows,
    softmax_at,
    tangent,
    to_rows,
)
from catreparam.estimators.facts import Choice, Range, estimator
from catreparam.hyperparameters import check_hyperparameter, for_rows
from catreparam.kernels import dispatch
from catreparam.kernels.settings import DRAW
from catreparam.kernels.torch import gumbel_rao as conditional_gumbels
from catreparam.validation import check_count


@estimator(
    "Gumbel",
    search={
        "temperature": Range(0.1, 2.0, 0.5, log=True, grid=(0.1, 0.3, 0.5, 1.0)),
        "num_noises": Choice((10, 100), 10),
    },
)
def gumbel_rao(
    logits: Float[Tensor, "*batch num_classes"],
    *,
    temperature: float | Tensor = 0.5,
    num_noises: int = 10,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws a one-hot x first, then averages the Gumbel-Softmax gradient over `num_noises` Gumbels given x.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        the mean over conditional Gumbels of the straight-through Gumbel-Softmax gradient.
    Bias:      that of straight-through Gumbel-Softmax at the same temperature, with less variance. Exact law.
    Cost:      num_noises softmaxes forward and backward; one evaluation of f. Memory num_noises times the logits.
    Raises:    ValueError unless temperature > 0 and num_noises >= 1; TypeError or ValueError for bad input.

    >>> x = gumbel_rao(torch.zeros(8, 3), generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    Reference: Paulus et al. 2021, https://arxiv.org/abs/2010.04838.
    """
    num_noises = check_count("num_noises", num_noises)
    temperature = check_hyperparameter("temperature", temperature, above=0.0)
    rows = to_rows(logits, mask, dim, generator)
    temperature = for_rows("temperature", temperature, rows, dim)
    x = dispatch.sample(rows.detach(), None, -1, generator, DRAW)
    if isinstance(temperature, Tensor) or dispatch.choose_path(DRAW, rows) == "naive":
        noise = draw_exponential_like(rows.expand(num_noises, *rows.shape), generator)
        x = attach_gradient(x, gumbel_rao_surrogate(rows, noise=noise, x=x, temperature=temperature))
    else:
        noise = conditional_gumbels.draw_noise(rows, num_noises, generator)
        x = conditional_gumbels.attach(gumbel_rao_surrogate, rows, x, noise, temperature)
    return from_rows(x, logits, dim)


def gumbel_rao_surrogate(logits: Rows, *, noise: Tensor, x: Rows, temperature: float | Tensor = 0.5) -> Rows:
    """Mean over conditional Gumbels of their softmax at `temperature`, given the hard sample x.

    `noise` holds Exponential(1) values [num_noises, *batch, num_classes]. Each Gumbel is a constant: the gradient
    is that of softmax((logits + constant) / temperature).
    """
    temperature = check_hyperparameter("temperature", temperature, above=0.0)
    perturbed = conditional_gumbel(torch.log_softmax(logits.detach(), -1), x, noise)
    return softmax_at(perturbed + tangent(logits), temperature).mean(0)
