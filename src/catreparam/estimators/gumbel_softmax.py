"""Gumbel-Softmax, soft and straight-through: argmax relaxed to softmax at a temperature."""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import Rows, attach_gradient, draw_gumbel_like, from_rows, one_hot_like, to_rows
from catreparam.kernels import dispatch
from catreparam.validation import check_flag, check_number


def gumbel_softmax(
    logits: Float[Tensor, "*batch num_classes"],
    *,
    temperature: float = 1.0,
    hard: bool = True,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws a one-hot x (or, with hard=False, a relaxed one) by the Gumbel-max trick.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        the gradient of softmax((logits + Gumbel noise) / temperature), whose argmax is x.
    Bias:      grows with temperature; variance grows as temperature falls. The law of the hard x is exact;
               hard=False returns the relaxed sample, whose own expectation has an unbiased gradient.
    Cost:      one softmax forward, one backward.
    Raises:    ValueError unless temperature > 0; TypeError or ValueError for bad logits, masks and generators.

    >>> x = gumbel_softmax(torch.zeros(8, 3), temperature=0.5, generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    References: Jang et al. 2017, https://arxiv.org/abs/1611.01144; Maddison et al. 2017, https://arxiv.org/abs/1611.00712.
    """
    check_flag("hard", hard)
    temperature = check_number("temperature", temperature, above=0.0)
    fast = dispatch.sample(logits, mask, dim, generator, "gumbel_softmax", temperature=temperature, hard=hard)
    if fast is not None:
        return fast
    rows = to_rows(logits, mask, dim, generator)
    noise = draw_gumbel_like(rows, generator)
    x_soft = gumbel_softmax_surrogate(rows, noise=noise, temperature=temperature)
    x = attach_gradient(one_hot_like((rows + noise).argmax(-1), rows), x_soft) if hard else x_soft
    return from_rows(x, logits, dim)


def gumbel_softmax_surrogate(logits: Rows, *, noise: Rows, temperature: float = 1.0) -> Rows:
    """The relaxed sample softmax((logits + noise) / temperature) for given standard Gumbel noise [*batch, num_classes]."""
    temperature = check_number("temperature", temperature, above=0.0)
    return torch.softmax((logits + noise) / temperature, -1)
