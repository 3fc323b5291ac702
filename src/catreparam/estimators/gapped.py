"""Gapped straight-through: perturb the logits just enough that the hard sample wins, by a gap."""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import Rows, attach_gradient, draw_one_hot, finite, from_rows, softmax_at, to_rows
from catreparam.estimators.facts import Range, estimator
from catreparam.hyperparameters import check_hyperparameter, for_rows
from catreparam.validation import check_choice, check_flag


@estimator(
    "Gumbel",
    search={
        "temperature": Range(0.1, 2.0, 1.0, log=True, grid=(0.5, 1.0)),
        "gap": Range(0.3, 3.0, 1.0, log=True, grid=(1.0, "p")),
    },
)
def gapped_straight_through(
    logits: Float[Tensor, "*batch num_classes"],
    *,
    temperature: float | Tensor = 1.0,
    gap: float | Tensor | str = 1.0,
    hard: bool = True,
    mask: Bool[Tensor, "..."] | None = None,
    dim: int = -1,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws a one-hot x and differentiates a softmax whose logits were moved so that x leads by `gap`.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        softmax((logits + m1 - m2) / temperature) with constants m1, m2 that lift x to the top and push the rest
               `gap` below it. gap=1.0 is GST-1.0; gap="p" is GST-p, -log(1 - p_x).
    Bias:      as straight-through Gumbel-Softmax, with less variance, since no noise is left once x is known. Exact
               law.
    Cost:      two softmaxes forward, one backward.
    Raises:    ValueError unless temperature > 0 and gap >= 0 or "p"; TypeError or ValueError for bad input.

    >>> x = gapped_straight_through(torch.zeros(8, 3), generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    Reference: Fan et al. 2022, https://arxiv.org/abs/2206.07235.
    """
    hard = check_flag("hard", hard)
    rows = to_rows(logits, mask, dim, generator)
    temperature, gap = for_rows("temperature", temperature, rows, dim), for_rows("gap", gap, rows, dim)
    x = draw_one_hot(torch.softmax(rows, -1), generator)
    x_soft = gapped_straight_through_surrogate(rows, x=x, temperature=temperature, gap=gap)
    return from_rows(attach_gradient(x, x_soft) if hard else x_soft, logits, dim)


def gapped_straight_through_surrogate(
    logits: Rows, *, x: Rows, temperature: float | Tensor = 1.0, gap: float | Tensor | str = 1.0
) -> Rows:
    """The relaxed sample for a hard sample x: a softmax in which x leads every other class by at least the gap."""
    temperature = check_hyperparameter("temperature", temperature, above=0.0)
    constant = logits.detach()
    if isinstance(gap, str):
        check_choice("gap", gap, ["p"])
        probs = torch.softmax(constant, -1)
        rest = (probs * (1 - x)).sum(-1, keepdim=True)  # 1 - p_x without cancellation
        margin = -rest.clamp_min(torch.finfo(rest.dtype).tiny).log()
    else:
        margin = check_hyperparameter("gap", gap, least=0.0)
    top = constant.amax(-1, keepdim=True)
    lift = x * (top - (x * finite(constant)).sum(-1, keepdim=True))
    push = (1 - x) * (constant + margin - top).clamp_min(0.0)
    return softmax_at(logits + (lift - push), temperature)
