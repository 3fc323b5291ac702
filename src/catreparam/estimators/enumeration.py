"""The exact expectation, by enumerating every joint configuration of the variables."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import one_hot_like, to_rows
from catreparam.estimators.facts import estimator
from catreparam.estimators.joint import Objective, evaluate
from catreparam.validation import check_count


@estimator(
    "Score function and exact",
    tuned=False,
)
def exact(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    num_samples: int = 1,
    chunk_size: int = 1024,
    max_configurations: int = 2**18,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, "*losses"]:
    """E[objective(x)] itself, whose ordinary gradient is exact. Nothing is drawn: num_samples changes nothing.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)), all variables of a loss jointly.
    Bias:      none, and no variance.
    Cost:      num_classes ** num_variables evaluations of f, `chunk_size` at a time under torch.vmap
               (chunk_size=1: one by one, for objectives that vmap cannot take).
    Raises:    ValueError if there are more than `max_configurations`; TypeError or ValueError for bad input.

    >>> logits = torch.zeros(4, 3, requires_grad=True)
    >>> exact(lambda x: x[..., 0], logits).tolist() == [1 / 3] * 4
    False
    >>> torch.allclose(exact(lambda x: x[..., 0], logits), torch.tensor(1 / 3))
    True
    """
    check_count("num_samples", num_samples)
    check_count("chunk_size", chunk_size)
    check_count("max_configurations", max_configurations)
    rows = to_rows(logits, mask, generator=generator)
    probs = torch.softmax(rows, -1)
    num_classes = rows.shape[-1]
    first = evaluate(objective, one_hot_like(rows.detach().argmax(-1), rows).to(logits.dtype))
    variables = rows.shape[first.ndim : -1]
    count = num_classes ** math.prod(variables)
    if count > max_configurations:
        raise ValueError(
            f"{num_classes} classes and {math.prod(variables)} variables make {count} configurations, more than "
            f"max_configurations={max_configurations}; use a sampling estimator such as rloo"
        )
    batched = torch.vmap(objective, randomness="same") if chunk_size > 1 else lambda x: objective(x[0]).unsqueeze(0)
    total = torch.zeros_like(first, dtype=rows.dtype)
    for start in range(0, count, chunk_size):
        numbers = torch.arange(start, min(start + chunk_size, count), device=rows.device)  # made there, not copied
        index = _digits(numbers, num_classes, math.prod(variables)).reshape(-1, *(1,) * first.ndim, *variables)
        x = one_hot_like(index, rows).expand(len(numbers), *rows.shape)
        weight = (probs * x).sum(-1).flatten(1 + first.ndim).prod(-1) if variables else (probs * x).sum(-1)
        losses = batched(x.to(logits.dtype, copy=True)).masked_fill(weight == 0, 0.0)
        total = total + (weight * losses).sum(0)
    return total.to(first.dtype)


def _digits(numbers: Tensor, base: int, count: int) -> Tensor:
    """The last `count` digits of numbers [n] to a base, [n, count]."""
    digits = []
    for _ in range(count):
        digits.insert(0, numbers % base)
        numbers = numbers // base
    return torch.stack(digits, -1) if digits else numbers.new_zeros(len(numbers), 0)
