"""How much each class is used: shares, perplexities, and their moving average in modules that keep one."""

import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from catreparam.kernels.tracing import refuse_script
from catreparam.pending import waits
from catreparam.validation import check_count, check_flag, check_number, values_are_checked


def share_of(codes: Tensor, counted: Tensor | None = None) -> Float[Tensor, "*groups num_classes"]:
    """The mean of codes [*batch, *groups, num_classes] over the batch, in their dtype; zeros if nothing is counted.

    `counted` [*batch] is True (or 1) where a position counts, and says how many axes the batch has; None: one axis.
    """
    if counted is None:
        counted = torch.ones(codes.shape[:1], dtype=torch.bool, device=codes.device)
    rows = codes.flatten(0, counted.ndim - 1) if counted.ndim else codes.unsqueeze(0)
    weights = counted.to(codes.dtype).reshape(-1, *(1,) * (rows.ndim - 1))
    kept = torch.where(weights > 0, rows * weights, 0.0)  # also where what does not count is NaN
    return kept.sum(0) / weights.sum().clamp_min(1.0)


def perplexity_of(share: Float[Tensor, "*groups num_classes"]) -> Float[Tensor, "*groups"]:
    """exp(entropy) of shares: how many classes are in use. An unused class counts as nothing and gets no gradient."""
    used = share > 0
    return torch.exp(-(share * torch.where(used, share, 1.0).log()).sum(-1))


def in_backward() -> bool:
    """Whether autograd runs the caller: activation checkpointing is doing a forward pass a second time."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def num_processes() -> int:
    """How many processes train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class UsageStatistics(nn.Module):
    """A module that keeps the share of each class in a moving average, in the float32 buffer `usage`, or not at all.

    The buffers stay float32 whatever .half() or .to(bfloat16) make of the rest. A batch whose share is not finite is
    left out, with a warning where nothing waits for a device. The second forward pass of activation checkpointing is
    left out too.
    """

    usage: Tensor | None
    num_batches: Tensor | None

    __prepare_scriptable__ = refuse_script

    def __init__(self, num_classes: int, *, usage_momentum: float, track_usage: bool, sync_usage: bool) -> None:
        super().__init__()
        self.num_classes = check_count("num_classes", num_classes)
        self.usage_momentum = check_number("usage_momentum", usage_momentum, least=0.0, most=1.0)
        self.track_usage = check_flag("track_usage", track_usage)
        self.sync_usage = check_flag("sync_usage", sync_usage)
        usage = torch.full((num_classes,), 1 / num_classes, dtype=torch.float32)
        self.register_buffer("usage", usage if track_usage else None)
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.long) if track_usage else None)

    @property
    def perplexity(self) -> Tensor:
        """exp(entropy of usage), a scalar between 1 and num_classes. Raises RuntimeError if usage is not tracked."""
        if self.usage is None:
            raise RuntimeError("this module does not track its usage; make it with track_usage=True")
        return perplexity_of(self.usage)

    def reset_usage(self) -> None:
        """Forgets what was counted."""
        if self.usage is not None and self.num_batches is not None:
            self.usage.fill_(1 / self.num_classes)
            self.num_batches.zero_()

    @torch.no_grad()
    def _count(self, codes: Tensor) -> Tensor | None:
        """Counts codes [*batch, num_classes] into `usage`; their share, or None where nothing is to be counted."""
        if self.usage is None or self.num_batches is None or not self.track_usage or in_backward():
            return None
        share, rows = share_of(codes.reshape(-1, self.num_classes)).float(), codes.numel() // self.num_classes
        finite = torch.isfinite(share).all()
        if self.sync_usage and num_processes() > 1:
            totals = torch.cat([share * rows, share.new_full((1,), rows)])
            torch.distributed.all_reduce(totals)
            share = totals[:-1] / totals[-1].clamp_min(1.0)
            finite = torch.isfinite(share).all() & (totals[-1] > 0)
        elif rows == 0:
            return None
        if values_are_checked(share) and not waits(share.device) and not bool(finite | (share == 0).all()):
            warnings.warn("codes that are not finite were left out of the usage statistics", stacklevel=4)
        momentum = torch.where(self.num_batches == 0, 0.0, self.usage_momentum)  # the first batch counts in full
        self.usage.copy_(torch.where(finite, momentum * self.usage + (1 - momentum) * share, self.usage))
        self.num_batches.add_(finite)
        return share

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = self.usage
        super()._apply(fn, recurse)
        if before is not None and self.usage is not None and self.usage.dtype != torch.float32:
            self.usage = before.to(self.usage.device)  # not what went through another dtype
        return self

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        for name in ("usage", "num_batches"):
            key = f"{prefix}{name}"
            if getattr(self, name) is None:
                state_dict.pop(key, None)  # saved by a module that tracks
            elif key in state_dict and state_dict[key].is_floating_point():
                state_dict[key] = state_dict[key].float()
        super()._load_from_state_dict(state_dict, prefix, *arguments)
