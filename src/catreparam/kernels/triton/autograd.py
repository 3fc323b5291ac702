"""The Triton kernels with gradients attached: eagerly, and as the same operators as the compiled ones.

The backward pass makes noise, sample and chain again from the logits and a seed: a number, or a tensor on the device
where something records the call.
"""

import threading
from typing import Any

import torch
from torch import Generator, Tensor

from catreparam import pending
from catreparam.kernels import ops
from catreparam.kernels.autograd import Passes, attach
from catreparam.kernels.settings import Setting
from catreparam.kernels.tracing import is_traced
from catreparam.kernels.triton import launch
from catreparam.kernels.triton.launch import why_not as why_not
from catreparam.validation import check_rows, values_are_checked

LARGEST_SEED = 2**63 - 1
OFFSETS = 4  # by which a generator moves on for a call; torch wants a multiple of this
_one_at_a_time = threading.Lock()


def sample(setting: Setting, rows: Tensor, generator: Generator | None = None) -> Tensor:
    """The sample of `setting.method` for rows [*batch, num_classes], with the method's gradient attached.

    rows: float32, bfloat16 or float16 on a CUDA device, impossible classes at -inf; the sample has their dtype. The
    seed of all noise comes from `generator` and advances it. Rows with NaN or +inf or without an allowed class give
    NaN; the ValueError comes as `catreparam.check_pending` says, if validation is on.
    """
    if is_traced():
        return ops.sample_traced(setting, rows, _draw_seed(rows.device, generator))
    if not rows.is_cuda or pending.is_capturing(rows.device):  # a graph draws a seed anew at every replay
        return attach(PASSES, setting, rows, _draw_seed(rows.device, generator))
    return attach(PASSES, setting, rows, take_seed(generator or torch.cuda.default_generators[rows.device.index]))


def _draw_seed(device: torch.device, generator: Generator | None) -> Tensor:
    return torch.randint(LARGEST_SEED, (), generator=generator, device=device)


def take_seed(generator: Generator) -> int:
    """A seed from where a CUDA generator stands, which moves on: no kernel draws it. In [2^62, 2^63)."""
    with _one_at_a_time:
        offset = generator.get_offset()
        generator.set_offset(offset + OFFSETS)
    return 1 << 62 | _scrambled(_scrambled(generator.initial_seed()) + offset) >> 2


def _scrambled(number: int) -> int:
    """64 bits, all of which depend on all of a number's (SplitMix64): torch's kernels use seed and offset as such."""
    number = (number + 0x9E3779B97F4A7C15) % 2**64
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
    return number ^ number >> 31


def _forward(
    setting: Setting,
    rows: Tensor,
    seed: int | Tensor,
    noise: Tensor | None = None,
    x: Tensor | None = None,
    kept: Any = None,
) -> Tensor:
    checked = values_are_checked(rows)
    if pending.defers(rows.device):
        faults = pending.faults_of(rows.device)
        out = launch.forward(setting, rows, seed, noise, x, faults.places if checked else faults.unread)
        if checked:
            faults.look()
        return out
    flags = torch.zeros(4, dtype=torch.int32, device=rows.device)
    out = launch.forward(setting, rows, seed, noise, x, flags)
    if checked and bool(flags.any()):
        check_rows(rows)  # raises the right error
    return out


def _backward(
    setting: Setting,
    rows: Tensor,
    upstream: Tensor,
    seed: int | Tensor,
    noise: Tensor | None = None,
    x: Tensor | None = None,
    kept: Any = None,
) -> Tensor:
    pending.look(rows.device)
    return launch.backward(setting, rows, upstream, seed, noise, x)


PASSES = Passes(_forward, _backward, launch.replay, lambda setting, rows: None)
ops.PASSES["cuda"] = PASSES
