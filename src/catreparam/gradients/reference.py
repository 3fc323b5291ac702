"""Many gradients of one estimator, what they are compared with, and how long they take."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.estimators.expectation import expectation
from catreparam.estimators.joint import Objective
from catreparam.estimators.registry import make_estimator
from catreparam.validation import check_logits


def draw_gradients(
    objective: Objective,
    logits: Tensor,
    method: str | Callable[..., Tensor],
    num_draws: int,
    num_samples: int,
    mask: Tensor | None,
    generator: Generator | None,
) -> tuple[Tensor, float]:
    """Gradients [num_draws, *logits.shape] and the bytes that one draw keeps for backward."""
    per_chunk = max(1, min(num_draws, 2_000_000 // max(logits.numel() * num_samples, 1)))
    chunks, kept = [], 0.0
    for begin in range(0, num_draws, per_chunk):
        count = min(per_chunk, num_draws - begin)
        leaf = logits.detach().expand(count, *logits.shape).clone().requires_grad_()
        saved: dict[int, int] = {}

        def note(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = expectation(
                objective, leaf, estimator=method, num_samples=num_samples, mask=mask, generator=generator
            )
            chunks.append(torch.autograd.grad(loss.sum(), leaf)[0].double())
        kept = max(kept, sum(saved.values()) / count)
    return torch.cat(chunks), kept


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
    check_logits(logits)
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        enumeration = make_estimator("exact", chunk_size=chunk_size, max_configurations=max_configurations)
        loss = expectation(objective, leaf, estimator=enumeration, mask=mask)
        return torch.autograd.grad(loss.sum(), leaf)[0]


@dataclass(frozen=True)
class Reference:
    """A gradient to compare with: exact (variance 0), or the mean of unbiased draws with the variance of that mean.

    Fields:
        gradient: the gradient, of the shape of the logits.
        variance: total variance of that mean; 0 where it is exact.
    """

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


def seconds_per_draw(
    objective: Objective,
    logits: Tensor,
    estimators: Sequence[Callable[..., Tensor]],
    *,
    num_samples: Sequence[int],
    num_draws: int = 500,
    rounds: int = 7,
    mask: Tensor | None = None,
) -> list[float]:
    """Median over `rounds` of the wall time of forward and backward, per draw, for each estimator.

    One uncounted round first; then the estimators take turns within every round.
    """
    generator = torch.Generator(device=logits.device).manual_seed(0)
    times: list[list[float]] = [[] for _ in estimators]
    for _ in range(rounds + 1):
        for estimator, count, record in zip(estimators, num_samples, times, strict=True):
            started = time.perf_counter()
            draw_gradients(objective, logits, estimator, num_draws, count, mask, generator)
            if logits.device.type == "cuda":
                torch.cuda.synchronize(logits.device)
            record.append((time.perf_counter() - started) / num_draws)
    return [median(record[1:]) for record in times]
