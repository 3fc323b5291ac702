"""Gumbel-Rao's noise and gradient by hand: classes first where they are few, a block of noises at a time.

Given x, the softmax at temperature T of the conditional Gumbels is r / sum(r) with r_k = (1 + E_k / (E_x p_k))^(-1/T)
for k other than x and r_x = 1: one power an element, and no other logarithm.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from catreparam.categorical import attach_gradient, with_fine_tail
from catreparam.kernels.torch.layouts import WIDEST_COLUMNS
from catreparam.kernels.tracing import in_forward_mode, is_batched, is_traced
from catreparam.pending import look

BLOCK = 1 << 18  # elements of noise worked on at once


def draw_noise(rows: Tensor, num_noises: int, generator: Generator | None = None) -> Tensor:
    """Exponential(1) noise [num_noises, *batch, num_classes], never zero, laid out for `gumbel_rao_gradient`."""
    few = rows.shape[-1] <= WIDEST_COLUMNS
    lead = (rows.shape[-1], num_noises) if few else (num_noises,)
    noise = rows.detach().new_empty((*lead, *rows.shape[:-1]) if few else (*lead, *rows.shape))
    # exponential_ takes five times as long. Uniform numbers are below 1; 0 stands for half of their smallest step.
    noise = noise.uniform_(generator=generator).clamp_min_(torch.finfo(rows.dtype).eps / 4).log_().neg_()
    noise = with_fine_tail(noise)
    return noise.movedim(0, -1) if few else noise


Surrogate = Callable[..., Tensor]  # the naive twin: `gumbel_rao_surrogate`


def attach(surrogate: Surrogate, rows: Tensor, x: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """The value of x with the gradient of `surrogate` for the given noise [num_noises, *batch, num_classes].

    The surrogate itself serves under transforms and for double backward; else its gradient is computed by hand.
    """
    if is_traced() or in_forward_mode():
        return attach_gradient(x, surrogate(rows, noise=noise, x=x, temperature=temperature))
    return _GumbelRao.apply(rows, x, noise, temperature, surrogate) if rows.requires_grad else x


class _GumbelRao(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, x: Tensor, noise: Tensor, temperature: float, surrogate: Surrogate) -> Tensor:
        # A copy, so that the caller may change the sample in place; as truth values it is a quarter of the size.
        ctx.save_for_backward(rows, x.bool(), noise)
        ctx.temperature, ctx.surrogate = temperature, surrogate
        return x.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, x, noise = ctx.saved_tensors
        look(rows.device)
        given = {"noise": noise, "x": x.to(rows.dtype), "temperature": ctx.temperature}
        if (create_graph := torch.is_grad_enabled()) or is_batched(upstream):
            with torch.enable_grad():
                surrogate = ctx.surrogate(rows, **given)
            gradient = torch.autograd.grad(surrogate, rows, upstream, create_graph=create_graph)[0]
        else:
            gradient = gumbel_rao_gradient(rows, upstream, **given)
        return gradient, None, None, None, None


def gumbel_rao_gradient(logits: Tensor, upstream: Tensor, *, noise: Tensor, x: Tensor, temperature: float) -> Tensor:
    """The gradient of <upstream, gumbel_rao_surrogate> with respect to logits [*batch, num_classes]."""
    few = logits.shape[-1] <= WIDEST_COLUMNS
    classes, noises = (0, 1) if few else (-1, 0)  # axes

    def pack(rows: Tensor) -> Tensor:
        return (rows.movedim(-1, 0).contiguous() if few else rows).unsqueeze(noises)

    chosen, given = pack(x), pack(upstream)
    odds = pack(torch.softmax(logits.detach(), -1)).masked_fill(chosen > 0, torch.inf)
    total = torch.zeros_like(odds)
    for some in noise.split(max(1, BLOCK // max(1, logits.numel()))):
        clocks = some.movedim(-1, 0) if few else some
        first = (clocks * chosen).sum(classes, keepdim=True)
        ratio = (clocks / odds).add_(first).div_(first)
        probs = ratio.log2_().mul_(-1 / temperature).exp2_()  # half the time of pow_
        probs.div_(probs.sum(classes, keepdim=True))
        product = probs * given
        product.addcmul_(probs, product.sum(classes, keepdim=True), value=-1)
        total.add_(product.sum(noises, keepdim=True))
    gradient = total.squeeze(noises).div_(len(noise) * temperature)
    return (gradient.movedim(0, -1) if few else gradient).contiguous()
