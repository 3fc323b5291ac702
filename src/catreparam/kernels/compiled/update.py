"""A step of guidance after the reward's gradient: one pass of the compiled kernels. Its twin is `guidance.update`."""

import ctypes
import math
from typing import NamedTuple

import torch
from torch import Tensor

from catreparam.kernels.compiled import library

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's, as torch.optim.Adam has them
ADD_DIVERGENCE, MOVE = 1, 2  # UpdatePass in interface.h


class _CUpdate(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("passes", "fresh")),
        *((name, ctypes.c_int64) for name in ("rows", "classes", "rows_of_sequence")),
        *((name, ctypes.c_float) for name in ("kl_weight", "beta1", "beta2", "epsilon", "step_size", "root")),
        *((name, ctypes.c_void_p) for name in ("log_prior", "active", "clip", "logits", "gradient", "first", "second")),
        *((name, ctypes.c_void_p) for name in ("kl", "entropy", "square")),
    ]


def serves(*rows: Tensor) -> bool:
    """Whether the kernels take such rows: float32 on the CPU, plain and one after the other in memory."""
    return library.BUILT and all(
        type(tensor) is Tensor
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and not tensor.is_neg()
        for tensor in rows
    )


class Seen(NamedTuple):
    """What a step saw before the logits moved: KL, entropy and norm of the gradient [B]; was the reward's finite?"""

    kl: Tensor
    entropy: Tensor
    norm: Tensor
    is_finite: Tensor | bool


class Update:
    """The logits [B, M, V] of one optimisation, moved in place, and Adam's moments of them."""

    def __init__(self, logits: Tensor, log_prior: Tensor, active: Tensor | None) -> None:
        self.logits, self.num_updates = logits, 0
        batch, free, classes = logits.shape
        first, second = (library.spacious(logits.shape, logits) for _ in range(2))  # not read in the first step
        self._seen = torch.empty(3, batch, free)
        active = None if active is None else active.reshape(-1).contiguous()
        self._tensors = logits, log_prior, active, first, second  # the kernel knows where they lie
        address = [0 if tensor is None else tensor.data_ptr() for tensor in self._tensors]
        self._call = _CUpdate(rows=batch * free, classes=classes, rows_of_sequence=free)
        self._call.beta1, self._call.beta2, self._call.epsilon = *BETAS, EPSILON
        self._call.logits, self._call.log_prior, self._call.active, self._call.first, self._call.second = address
        self._call.kl, self._call.entropy, self._call.square = (part.data_ptr() for part in self._seen)

    def add_divergence(self, gradient: Tensor, kl_weight: float) -> Seen:
        """As its twin's."""
        return self._run(ADD_DIVERGENCE, gradient, kl_weight)

    def move(self, gradient: Tensor, lr: float, clip: Tensor | None = None) -> None:
        """As its twin's."""
        clip = None if clip is None else clip.contiguous()
        self._prepare(lr, clip)
        self._run(MOVE, gradient, 0.0)

    def step(self, gradient: Tensor, kl_weight: float, lr: float) -> Seen:
        """As its twin's, in one pass."""
        self._prepare(lr, None)
        return self._run(ADD_DIVERGENCE | MOVE, gradient, kl_weight)

    def _prepare(self, lr: float, clip: Tensor | None) -> None:
        self._call.fresh = self.num_updates == 0
        self.num_updates += 1
        self._call.step_size = lr / (1.0 - BETAS[0] ** self.num_updates)
        self._call.root = 1.0 / math.sqrt(1.0 - BETAS[1] ** self.num_updates)
        self._call.clip = None if clip is None else clip.data_ptr()

    def _run(self, passes: int, gradient: Tensor, kl_weight: float) -> Seen:
        self._call.passes, self._call.gradient, self._call.kl_weight = passes, gradient.data_ptr(), kl_weight
        finite = library.update(self._call)
        if passes & MOVE:
            torch.autograd.graph.increment_version(self.logits)
        kl, entropy, square = self._seen.sum(-1)
        return Seen(kl, entropy, square.sqrt_(), finite)
