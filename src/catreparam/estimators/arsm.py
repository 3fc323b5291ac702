"""ARSM: augment, reinforce, swap, merge; for two classes its antithetic special case, DisARM."""

import itertools
import math

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import draw_exponential_like, one_hot_like, tangent, to_rows
from catreparam.estimators.facts import estimator
from catreparam.estimators.joint import Objective, add_gradient, evaluate, over_variables, sum_variables
from catreparam.validation import check_count

MAX_CLASSES = 64


@estimator(
    "Score function and exact",
    tuned=False,
)
def arsm(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    num_samples: int = 1,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, "*losses"]:
    """E[objective(x)] with the gradient of correlated evaluations at swapped draws.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)), all variables of a loss jointly.
    By:        two classes: DisARM, f at a draw and at its antithetic twin. More: ARSM, f at the draws made by swapping
               two coordinates of one Dirichlet vector, for every pair of classes.
    Bias:      none, for any f, differentiable or not.
    Cost:      per sample 2 evaluations of f for two classes, else num_classes (num_classes - 1) / 2 + 1.
    Raises:    ValueError for num_samples < 1 or more than 64 classes; TypeError or ValueError for bad input.

    >>> logits = torch.zeros(4, 3, requires_grad=True)
    >>> arsm(lambda x: x[..., 0], logits, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4])

    References: Yin et al. 2019, https://arxiv.org/abs/1905.01413; Dong et al. 2020, https://arxiv.org/abs/2006.10680.
    """
    check_count("num_samples", num_samples)
    rows = to_rows(logits, mask, generator=generator)
    if rows.shape[-1] > MAX_CLASSES:
        raise ValueError(
            f"arsm evaluates the objective about num_classes^2 / 2 times and takes at most {MAX_CLASSES} classes, "
            f"got {rows.shape[-1]}; use rloo"
        )
    draw = _disarm if rows.shape[-1] == 2 else _arsm
    losses = [draw(lambda x: evaluate(objective, x.to(logits.dtype)), rows, generator) for _ in range(num_samples)]
    return torch.stack(losses).mean(0)


def _disarm(objective: Objective, rows: Tensor, generator: Generator | None) -> Tensor:
    difference = rows.detach()[..., 0] - rows.detach()[..., 1]  # class 0 has probability sigmoid(difference)
    clocks, coin = draw_exponential_like(rows, generator).unbind(-1)
    uniform = -torch.expm1(-clocks) / 2  # below 1/2, and its twin 1 - uniform above: a coin says which is first
    low, high = uniform < torch.sigmoid(difference), uniform > torch.sigmoid(-difference)
    first, twin = torch.where(coin < math.log(2), low, high), torch.where(coin < math.log(2), high, low)
    losses = torch.stack([objective(one_hot_like((~b).long(), rows)) for b in (first, twin)])
    spread = over_variables((losses[0] - losses[1]).detach(), difference)
    # (-1)^twin [first != twin] = first - twin
    gradient = spread / 2 * (first.to(rows.dtype) - twin.to(rows.dtype)) * torch.sigmoid(difference.abs())
    term = gradient * (tangent(rows)[..., 0] - tangent(rows)[..., 1])
    return add_gradient(losses.mean(0), sum_variables(term, losses[0]))


def _arsm(objective: Objective, rows: Tensor, generator: Generator | None) -> Tensor:
    num_classes = rows.shape[-1]
    clocks = draw_exponential_like(rows, generator)
    dirichlet = clocks / clocks.sum(-1, keepdim=True)

    def swapped_loss(first: int, second: int) -> Tensor:
        order = list(range(num_classes))
        order[first], order[second] = second, first
        return objective(one_hot_like((rows.detach() - dirichlet[..., order].log()).argmax(-1), rows))

    unswapped = swapped_loss(0, 0)
    pairs = {pair: swapped_loss(*pair) for pair in itertools.combinations(range(num_classes), 2)}
    table = torch.stack(  # [num_classes, num_classes, *losses], symmetric
        [
            torch.stack([unswapped if i == j else pairs[min(i, j), max(i, j)] for j in range(num_classes)])
            for i in range(num_classes)
        ]
    ).detach()
    centred = table - table.mean(0, keepdim=True)
    gradient = sum(
        torch.stack([over_variables(centred[c, j], dirichlet[..., 0]) for c in range(num_classes)], -1)
        * (1 / num_classes - dirichlet[..., j : j + 1])
        for j in range(num_classes)
    )
    gradient = gradient * (torch.softmax(rows.detach(), -1) > 0)  # an impossible class has gradient exactly zero
    term = sum_variables((gradient * tangent(rows)).sum(-1), unswapped)
    return add_gradient(torch.stack([unswapped, *pairs.values()]).mean(0), term)
