"""What estimators are compared with: the exact gradient by enumeration, or an unbiased mean where that is too large."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.estimators.expectation import expectation
from catreparam.estimators.joint import Objective
from catreparam.estimators.registry import make_estimator
from catreparam.gradients.draws import draw_gradients


def exact_gradient(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    mask: Bool[Tensor, "..."] | None = None,
    chunk_size: int = 1024,
    max_configurations: int = 2**18,
) -> Float[Tensor, "*batch num_classes"]:
    """The gradient of sum(E[objective(x)]) with respect to logits, by enumerating every joint configuration.

    Raises ValueError if there are more than `max_configurations`; TypeError or ValueError for bad input.

    >>> exact_gradient(lambda x: x[..., 0], torch.zeros(2)).tolist()
    [0.25, -0.25]
    """
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        enumeration = make_estimator("exact", chunk_size=chunk_size, max_configurations=max_configurations)
        loss = expectation(objective, leaf, estimator=enumeration, mask=mask)
        return torch.autograd.grad(loss.sum(), leaf)[0]


@dataclass(frozen=True)
class Reference:
    """A gradient to compare with: exact (variance 0), or the mean of unbiased draws with the variance of that mean."""

    gradient: Tensor
    variance: float = 0.0


def reference_gradient(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    mask: Bool[Tensor, "..."] | None = None,
    num_draws: int = 20_000,
    max_configurations: int = 2**16,
    generator: Generator | None = None,
) -> Reference:
    """The exact gradient where it can be enumerated, else the mean of `num_draws` RLOO gradients of 8 samples each."""
    try:
        return Reference(exact_gradient(objective, logits, mask=mask, max_configurations=max_configurations))
    except ValueError as error:
        if "max_configurations" not in str(error):
            raise
    draws, _ = draw_gradients(objective, logits, "rloo", num_draws, 8, mask, generator)
    return Reference(draws.mean(0), float(draws.var(0).sum()) / num_draws)
