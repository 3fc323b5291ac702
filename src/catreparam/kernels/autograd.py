"""Gradients for kernels that make noise, sample and chain again from a seed: what compiled and Triton kernels share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from catreparam.kernels.naive.sampling import naive_gradient
from catreparam.kernels.settings import Setting
from catreparam.kernels.tracing import is_batched

Seed = int | Tensor


class Passes(NamedTuple):
    """A path's kernels on rows [*batch, num_classes]. Noise, sample and what was kept may be given, or None.

    forward: (setting, rows, seed, noise, x, kept) -> the sample; raises ValueError for invalid rows.
    backward: (setting, rows, upstream, seed, noise, x, kept) -> the gradient with respect to rows.
    replay: (setting, rows, seed) -> the noise of a seed.
    room_to_keep: (setting, rows) -> what `forward` may fill for `backward`; None if that would be no gain.
    """

    forward: Callable[..., Tensor]
    backward: Callable[..., Tensor]
    replay: Callable[[Setting, Tensor, Any], Tensor]
    room_to_keep: Callable[[Setting, Tensor], Any]


def attach(
    passes: Passes, setting: Setting, rows: Tensor, seed: Seed, noise: Tensor | None = None, x: Tensor | None = None
) -> Tensor:
    """The sample of a seed with its gradient attached; `noise` and `x` replace what would be drawn."""
    if rows.requires_grad and torch.is_grad_enabled():
        return _Sample.apply(rows, passes, setting, seed, noise, x)
    return passes.forward(setting, rows, seed, noise, x)


def replayed(
    passes: Passes, setting: Setting, rows: Tensor, seed: Seed, noise: Tensor | None = None, x: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Noise and hard sample, as given or as made from the seed; None where the method's surrogate does not take it."""
    if x is None and setting.method.needs_sample:
        x = passes.forward(setting._replace(hard=True), rows, seed, noise).float()
    if noise is None and setting.method.needs_noise:
        noise = passes.replay(setting, rows, seed)
    return noise, x


def differentiable_gradient(
    passes: Passes, setting: Setting, rows: Tensor, upstream: Tensor, seed: Seed, *given: Tensor | None
) -> Tensor:
    """The gradient of a seed by the naive twin, for create_graph=True and batches of gradients."""
    return naive_gradient(setting, rows, upstream, *replayed(passes, setting, rows.detach(), seed, *given))


class _Sample(torch.autograd.Function):
    """The usual call, with as few steps as there can be: a small one takes no longer than they do."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, passes: Passes, setting: Setting, seed: Seed, noise: Tensor | None, x: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(rows, noise, x)
        kept = passes.room_to_keep(setting, rows)
        ctx.call = passes, setting, seed, kept
        return passes.forward(setting, rows, seed, noise, x, kept)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, noise, x = ctx.saved_tensors
        passes, setting, seed, kept = ctx.call
        if torch.is_grad_enabled() or is_batched(upstream):  # create_graph=True
            gradient = differentiable_gradient(passes, setting, rows, upstream, seed, noise, x)
        else:
            gradient = passes.backward(setting, rows, upstream, seed, noise, x, kept)
        return gradient, None, None, None, None, None
