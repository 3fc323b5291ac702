"""Decoupled straight-through Gumbel: one temperature for the draw, another for the gradient."""

from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import (
    Rows,
    attach_gradient,
    draw_gumbel_like,
    from_rows,
    from_top,
    one_hot_like,
    softmax_at,
    to_rows,
)
from catreparam.estimators.facts import Range, estimator
from catreparam.hyperparameters import check_hyperparameter, for_rows
from catreparam.validation import check_flag


@estimator(
    "Gumbel",
    law="softmax(logits / `forward_temperature`)",
    search={
        "forward_temperature": Range(0.1, 2.0, 1.0, log=True),
        "backward_temperature": Range(0.1, 2.0, 0.5, log=True),
    },
    tuned=False,
)
def decoupled_straight_through(
    logits: Float[Tensor, "*batch num_classes"],
    *,
    forward_temperature: float | Tensor = 1.0,
    backward_temperature: float | Tensor = 0.5,
    hard: bool = True,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws x at one temperature and differentiates a Gumbel-Softmax sample at another, with the same noise.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        x ~ Categorical(softmax(logits / forward_temperature)), gradient of
               softmax((logits + Gumbel noise) / backward_temperature).
    Bias:      as Gumbel-Softmax in the gradient; the law of x is exact at forward_temperature = 1 only.
               hard=False returns softmax((logits + noise) / forward_temperature) with the same gradient.
    Cost:      one softmax forward (two with hard=False), one backward.
    Raises:    ValueError unless both temperatures are > 0; TypeError or ValueError for bad input.
    Departs:   the paper's later version drops the noise from the backward pass; here it stays, as in its first version.

    >>> x = decoupled_straight_through(torch.zeros(8, 3), generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    Reference: Shah et al. 2024, https://arxiv.org/abs/2410.13331.
    """
    hard = check_flag("hard", hard)
    forward_temperature = check_hyperparameter(
        "forward_temperature", forward_temperature, above=0.0, without_gradient="decoupled_straight_through"
    )
    rows = to_rows(logits, mask, dim, generator)
    forward_temperature = for_rows("forward_temperature", forward_temperature, rows, dim)
    backward_temperature = for_rows("backward_temperature", backward_temperature, rows, dim)
    noise = draw_gumbel_like(rows, generator)
    surrogate = decoupled_straight_through_surrogate(rows, noise=noise, backward_temperature=backward_temperature)
    if hard:
        value = one_hot_like((from_top(rows) / forward_temperature + noise).argmax(-1), rows)
    else:
        value = softmax_at(rows + noise, forward_temperature)
    return from_rows(attach_gradient(value, surrogate), logits, dim)


def decoupled_straight_through_surrogate(
    logits: Rows, *, noise: Rows, backward_temperature: float | Tensor = 0.5
) -> Rows:
    """softmax((logits + noise) / backward_temperature) for given standard Gumbel noise [*batch, num_classes]."""
    backward_temperature = check_hyperparameter("backward_temperature", backward_temperature, above=0.0)
    return softmax_at(logits + noise, backward_temperature)
