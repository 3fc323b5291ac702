"""The Triton kernels with gradients attached: an autograd function for eager calls, the same custom ops for traced ones.

Both save the logits and a seed: the backward pass makes noise, sample and chain again. The seed is a tensor on the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from catreparam.kernels.compiled import autograd as compiled
from catreparam.kernels.compiled.autograd import LARGEST_SEED, is_traced
from catreparam.kernels.naive.twins import naive_gradient, needs_noise, needs_sample
from catreparam.kernels.settings import Setting
from catreparam.kernels.triton import launch as triton_launch
from catreparam.validation import check_rows, values_are_checked


def sample(
    setting: Setting,
    rows: Tensor,
    *,
    generator: Generator | None = None,
    noise: Tensor | None = None,
    x: Tensor | None = None,
) -> Tensor:
    """The sample of `setting.method` for rows [*batch, num_classes], with the method's gradient attached.

    rows: float32, bfloat16 or float16 on a CUDA device, impossible classes at -inf; the sample has their dtype. The seed of
    all noise comes from `generator` and advances it. `noise` and `x` (float32, eager only) replace what would be drawn.
    Raises ValueError for rows with NaN or +inf or without an allowed class, if validation is on: that reads one value back.
    """
    seed = torch.randint(LARGEST_SEED, (), generator=generator, device=rows.device)
    if is_traced():
        if torch._C._are_functorch_transforms_active():
            return compiled._Transformed.apply(rows, seed, compiled._flat(setting))
        return compiled.sample_op(rows, seed, *compiled._flat(setting))
    if rows.requires_grad and torch.is_grad_enabled():
        return _Sample.apply(rows, setting, seed, noise, x)
    return _checked(setting, rows, seed, noise, x)


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, setting: Setting, seed: Tensor, noise: Tensor | None, x: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(rows, seed, noise, x)
        ctx.setting = setting
        return _checked(setting, rows, seed, noise, x)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, seed, noise, x = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: second derivatives are the naive twin's
            noise, x = _replay(ctx.setting, rows.detach(), seed, noise, x)
            return naive_gradient(ctx.setting, rows, upstream, noise, x), None, None, None, None
        return triton_launch.backward(ctx.setting, rows, upstream, seed, noise, x), None, None, None, None


def _checked(
    setting: Setting, rows: Tensor, seed: Tensor, noise: Tensor | None = None, x: Tensor | None = None
) -> Tensor:
    out, flag = triton_launch.forward(setting, rows, seed, noise, x)
    recorded = rows.is_cuda and torch.cuda.is_current_stream_capturing()  # in a CUDA graph: no value can be read
    if values_are_checked() and not recorded and flag.item():
        check_rows(rows)  # raises the right error
    return out


def _replay(
    setting: Setting, rows: Tensor, seed: Tensor, noise: Tensor | None = None, x: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Noise and hard sample, as given or as made from the seed; None where the method's surrogate does not take it."""
    if x is None and needs_sample(setting):
        x = triton_launch.forward(setting._replace(hard=True), rows, seed, noise)[0].float()
    if noise is None and needs_noise(setting):
        noise = triton_launch.replay(setting, rows, seed)
    return noise, x


# --- the custom ops of `compiled` on a CUDA device; their fake, autograd and vmap rules hold for both ---


def sample_on_device(rows: Tensor, seed: Tensor, *setting: Any) -> Tensor:
    """`compiled.sample_op` by the Triton kernels."""
    return _checked(compiled._unflat(*setting), rows, seed)


def backward_on_device(upstream: Tensor, rows: Tensor, seed: Tensor, *setting: Any) -> Tensor:
    """`compiled.backward_op` by the Triton kernels."""
    return triton_launch.backward(compiled._unflat(*setting), rows, upstream, seed)


def replay_on_device(rows: Tensor, seed: Tensor, *setting: Any) -> tuple[Tensor, Tensor]:
    """`compiled.replay_op` by the Triton kernels."""
    noise, x = _replay(compiled._unflat(*setting), rows, seed)
    return rows.new_empty(0) if noise is None else noise, rows.new_empty(0) if x is None else x


compiled.sample_op.register_kernel("cuda")(sample_on_device)
compiled.backward_op.register_kernel("cuda")(backward_on_device)
compiled.replay_op.register_kernel("cuda")(replay_on_device)
