"""The Triton kernels with gradients attached: eagerly, and as the same operators as the compiled ones.

The backward pass makes noise, sample and chain again from the logits and a seed, which is a tensor on the device.
"""

from typing import Any

import torch
from torch import Generator, Tensor

from catreparam.kernels import ops
from catreparam.kernels.autograd import Passes, attach
from catreparam.kernels.settings import Setting
from catreparam.kernels.tracing import is_traced
from catreparam.kernels.triton import launch
from catreparam.kernels.triton.launch import why_not as why_not
from catreparam.validation import check_rows, values_are_checked

LARGEST_SEED = 2**63 - 1


def sample(setting: Setting, rows: Tensor, generator: Generator | None = None) -> Tensor:
    """The sample of `setting.method` for rows [*batch, num_classes], with the method's gradient attached.

    rows: float32, bfloat16 or float16 on a CUDA device, impossible classes at -inf; the sample has their dtype. The
    seed of all noise comes from `generator` and advances it. Raises ValueError for rows with NaN or +inf or without an
    allowed class, if validation is on: that reads one value back.
    """
    seed = torch.randint(LARGEST_SEED, (), generator=generator, device=rows.device)
    return ops.sample_traced(setting, rows, seed) if is_traced() else attach(PASSES, setting, rows, seed)


def _forward(
    setting: Setting, rows: Tensor, seed: Tensor, noise: Tensor | None = None, x: Tensor | None = None, kept: Any = None
) -> Tensor:
    out, flag = launch.forward(setting, rows, seed, noise, x)
    recorded = rows.is_cuda and torch.cuda.is_current_stream_capturing()  # in a CUDA graph: no value can be read
    if values_are_checked(flag) and not recorded and flag.item():
        check_rows(rows)  # raises the right error
    return out


def _backward(
    setting: Setting,
    rows: Tensor,
    upstream: Tensor,
    seed: Tensor,
    noise: Tensor | None = None,
    x: Tensor | None = None,
    kept: Any = None,
) -> Tensor:
    return launch.backward(setting, rows, upstream, seed, noise, x)


PASSES = Passes(_forward, _backward, launch.replay, lambda setting, rows: None)
ops.PASSES["cuda"] = PASSES
