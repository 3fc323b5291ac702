"""Several processes on one model, as torchrun starts them: each takes its rows of every batch, gradients are summed.

All processes draw the noise of the whole batch and use their rows of it, so that the gradient is that of one process,
to rounding, whatever their number. Only the first process writes.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from catreparam.estimators.registry import takes_objective
from catreparam.experiments.runs.estimator_specs import build_estimator

Value = TypeVar("Value")


@dataclass(frozen=True)
class Team:
    """The processes that train one model together; Team() is a single one and costs nothing."""

    rank: int = 0
    size: int = 1

    def rows(self, count: int) -> slice:
        """This process's share of `count` rows.

        >>> [Team(rank, 3).rows(8) for rank in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
        """
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gather(self, own: Float[Tensor, "own *rest"], count: int) -> Float[Tensor, "count *rest"]:
        """The rows of all processes, with a gradient through this one's own."""
        if self.size == 1:
            return own
        rows = self.rows(count)
        everything = own.new_zeros(count, *own.shape[1:])
        everything[rows] = own.detach()
        dist.all_reduce(everything)
        return torch.cat([everything[: rows.start], own, everything[rows.stop :]])

    def restrict(
        self, objective: Callable[[Tensor], Tensor], count: int
    ) -> Callable[[Float[Tensor, "count *rest"]], Float[Tensor, " count"]]:
        """An objective of all rows that computes this process's own; the loss of the others is 0, without gradient."""
        if self.size == 1:
            return objective
        rows = self.rows(count)

        return lambda x: self.place(objective(x[rows]), count)

    def place(self, own: Float[Tensor, " own"], count: int) -> Float[Tensor, " count"]:
        """This process's values at their rows, 0 elsewhere."""
        rows = self.rows(count)
        return own if self.size == 1 else nn.functional.pad(own, (rows.start, count - rows.stop))

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces every gradient by its sum over the processes, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def agree(self, decide: Callable[[], Value]) -> Value:
        """What the first process decides, told to all."""
        if self.size == 1:
            return decide()
        told: list[Value | None] = [decide() if self.rank == 0 else None]
        dist.broadcast_object_list(told)
        return told[0]  # type: ignore[return-value]


def join_team(device: str) -> Team:
    """The team that torchrun started this process for, with NCCL on GPUs and gloo elsewhere; alone without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team()
    if not dist.is_initialized():
        if device.startswith("cuda"):
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Team(dist.get_rank(), size)


def check_team(estimators: Iterable[str], jobs: int) -> None:
    """Raises ValueError for what several processes cannot train: score-function methods, and runs side by side."""
    if jobs > 1:
        raise ValueError(f"jobs={jobs} and torchrun exclude each other: use one of them")
    for spec in estimators:
        if takes_objective(build_estimator(spec)):
            raise ValueError(f"estimator {spec!r} looks at the losses of the whole batch; train it without torchrun")
