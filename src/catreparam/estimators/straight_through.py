"""Straight-through: a hard sample forward, the probabilities backward."""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import Rows
from catreparam.estimators.facts import estimator
from catreparam.kernels import dispatch
from catreparam.kernels.methods import Method, Rule
from catreparam.kernels.settings import Setting, draw_from_surrogate


@estimator("Straight-through and ReinMax")
def straight_through(
    logits: Float[Tensor, "*batch num_classes"],
    *,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws a one-hot x whose gradient is that of its mean.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        J(p) grad f(x), with p = softmax(logits) and J(p) = diag(p) - p p^T.
    Bias:      exact for linear f; ignores the curvature of f. The law of x is exact.
    Cost:      one softmax forward, one backward.
    Raises:    TypeError or ValueError for bad logits, masks and generators.

    >>> x = straight_through(torch.zeros(8, 3), generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    Reference: Bengio et al. 2013, https://arxiv.org/abs/1308.3432.
    """
    return dispatch.sample(logits, mask, dim, generator, STRAIGHT_THROUGH)


def straight_through_surrogate(logits: Rows) -> Rows:
    """softmax(logits): its ordinary gradient is the estimator's. Deterministic; needs neither noise nor sample."""
    return torch.softmax(logits, -1)


STRAIGHT_THROUGH = Setting(Method(straight_through_surrogate, Rule.DIRECT, draw_from_surrogate))
