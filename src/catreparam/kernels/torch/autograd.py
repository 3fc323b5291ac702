"""The pure-torch fast path, for any device: draws, values and gradients of the estimators, attached to autograd.

`sample` draws, `surrogate` takes noise and sample as given. Both save the logits, the noise and, where the method needs
it, the hard sample; the chain is run again in backward, unless it is so small that keeping it costs nothing.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from catreparam.categorical import attach_gradient, spoil
from catreparam.kernels.methods import Rule
from catreparam.kernels.naive.sampling import naive_gradient, naive_surrogate
from catreparam.kernels.plan import plan_of
from catreparam.kernels.settings import DRAW, Setting
from catreparam.kernels.torch.adjoints import ADJOINTS, Adjoint
from catreparam.kernels.torch.layouts import Layout, choose_layout, draw_ticket
from catreparam.kernels.tracing import is_batched
from catreparam.pending import look
from catreparam.threads import PARTS, SERIAL
from catreparam.validation import inside_transform, is_fx_tracing

LARGE = 1 << 19  # elements: beyond, temporaries would leave the cache and be paged in afresh every time
KEPT = 1 << 18  # elements: a chain as small as this is kept for backward, any other is run again


def why_not(setting: Setting, logits: Tensor, num_classes: int) -> str:
    """Why this path does not take a call with plain logits; empty if it does."""
    if is_fx_tracing():
        return "make_fx records torch's own operations: it takes the naive path"
    return "" if setting.method.rule in ADJOINTS else f"{setting.method} has no torch path"


def sample(setting: Setting, rows: Tensor, generator: Generator | None = None) -> Tensor:
    """The sample of `setting.method` for rows [*batch, num_classes] (float32 or float64), with its gradient attached.

    Hard, or relaxed where `setting.hard` is False. Impossible classes stand at -inf; values are not checked.
    """
    noise = x = ticket = None
    layout = choose_layout(rows.shape[-1])
    if setting.method.needs_noise:
        count = (setting.num_noises + 1) // 2 if setting.num_noises > 1 else None
        noise = layout.draw_noise(rows, count, generator)
    if setting.hard:
        ticket = draw_ticket(rows, generator)
    elif setting.method.needs_sample:
        x = sample(DRAW, rows.detach(), generator)
    return _attach(rows, noise, x, ticket, setting, True)


def surrogate(setting: Setting, rows: Tensor, *, noise: Tensor | None = None, x: Tensor | None = None) -> Tensor:
    """Fast twin of `<method>_surrogate`, where its value means something: the relaxed sample, with the same gradient.

    noise: [*batch, num_classes], for exact_redge also [num_noises, *batch, num_classes]. x: one-hot [*batch,
    num_classes]. For reinmax and lambda_reinmax the value is softmax(rows).
    """
    setting = setting._replace(hard=setting.method.rule == Rule.SWEEP, num_noises=1)
    if noise is not None and noise.ndim > rows.ndim:
        noise, setting = (noise[0], setting) if len(noise) == 1 else (noise, setting._replace(num_noises=len(noise)))
    noise = None if noise is None else noise.detach()
    return _attach(rows, noise, None if x is None else x.detach(), None, setting, False)


def _attach(
    rows: Tensor, noise: Tensor | None, x: Tensor | None, ticket: Tensor | None, setting: Setting, drawn: bool
) -> Tensor:
    if torch.compiler.is_compiling():
        return _traced(rows, noise, x, ticket, setting, drawn)
    if inside_transform():
        return _Transformed.apply(rows, noise, x, ticket, setting, drawn)
    if rows.requires_grad and torch.is_grad_enabled():
        return _Sample.apply(rows, noise, x, ticket, setting, drawn)
    return _value(_parts(rows.detach(), noise, setting, drawn), rows, x, ticket)


class _Sample(torch.autograd.Function):
    """Eager calls."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        noise: Tensor | None,
        x: Tensor | None,
        ticket: Tensor | None,
        setting: Setting,
        drawn: bool,
    ) -> Tensor:
        parts = _parts(rows, noise, setting, drawn)
        value = _value(parts, rows, x, ticket)
        # A copy, so that the caller may change the sample in place; as truth values it is a quarter of the size.
        ctx.save_for_backward(rows, noise, value.bool() if x is None and setting.method.needs_sample else x)
        ctx.setting, ctx.drawn = setting, drawn
        ctx.parts = parts if isinstance(parts, list) else None
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, noise, x = ctx.saved_tensors
        look(rows.device)
        if is_batched(upstream):
            x = None if x is None else x.to(rows.dtype)
            noise = None if noise is None else _by_class(noise, rows, ctx.setting, ctx.drawn)
            gradient = naive_gradient(ctx.setting, rows, upstream, noise, x)
        elif torch.is_grad_enabled():  # create_graph=True
            x = None if x is None else x.to(rows.dtype)
            gradient = _Gradient.apply(rows, noise, x, upstream, ctx.setting, ctx.drawn)
        else:
            parts = ctx.parts if ctx.parts is not None else _parts(rows, noise, ctx.setting, ctx.drawn)
            gradient = _gradient(parts, rows, x, upstream)
        return gradient, None, None, None, None, None


class _Transformed(torch.autograd.Function):
    """Calls under torch.func and torch.vmap, which want the context set up apart."""

    @staticmethod
    def forward(
        rows: Tensor, noise: Tensor | None, x: Tensor | None, ticket: Tensor | None, setting: Setting, drawn: bool
    ) -> Tensor:
        return _value(_parts(rows.detach(), noise, setting, drawn), rows, x, ticket)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        rows, noise, x, _, ctx.setting, ctx.drawn = inputs
        ctx.save_for_backward(rows, noise, output if x is None and ctx.setting.method.needs_sample else x)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _Gradient.apply(*ctx.saved_tensors, upstream, ctx.setting, ctx.drawn), None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        return _Transformed.apply(*_batch_first(info.batch_size, in_dims, inputs)), 0


class _Gradient(torch.autograd.Function):
    """The gradient as a function of logits and upstream gradient; its own derivatives are those of the naive twin."""

    @staticmethod
    def forward(
        rows: Tensor, noise: Tensor | None, x: Tensor | None, upstream: Tensor, setting: Setting, drawn: bool
    ) -> Tensor:
        return _gradient(_parts(rows.detach(), noise, setting, drawn), rows, x, upstream)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.setting, ctx.drawn = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, noise, x, upstream = ctx.saved_tensors
        setting = ctx.setting
        noise = None if noise is None else _by_class(noise, rows, setting, ctx.drawn)

        def gradient(at: Tensor, upstream: Tensor) -> Tensor:
            return torch.func.vjp(lambda logits: naive_surrogate(setting, logits, noise, x), at)[1](upstream)[0]

        to_rows, to_upstream = torch.func.vjp(gradient, rows, upstream)[1](direction)
        return to_rows, None, None, to_upstream, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        return _Gradient.apply(*_batch_first(info.batch_size, in_dims, inputs)), 0


def _batch_first(size: int, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> list[Any]:
    """Inputs whose mapped axis is one more batch axis: rows are independent. The axis of noises stays in front."""
    *tensors, setting, drawn = inputs
    places = [0, 1 if setting.num_noises > 1 else 0, 0, 0]
    moved = []
    for tensor, dim, place in zip(tensors, in_dims, places, strict=False):
        if tensor is None:
            moved.append(None)
        elif dim is None:
            shape = [*tensor.shape[:place], size, *tensor.shape[place:]]
            moved.append(tensor.unsqueeze(place).expand(shape))
        else:
            moved.append(tensor.movedim(dim, place))
    return [*moved, setting, drawn]


class _Part(NamedTuple):
    place: slice | None  # of its rows; None for all
    adjoint: Adjoint


def _parts(rows: Tensor, noise: Tensor | None, setting: Setting, drawn: bool) -> Iterable[_Part]:
    """The method on a few rows at a time: as a list if it is small enough to be kept, else made while iterated."""
    num_classes, axes, lead = rows.shape[-1], rows.ndim, int(setting.num_noises > 1)
    count = rows.numel() // num_classes
    layout = choose_layout(num_classes)
    assert setting.method.rule is not None
    adjoint = ADJOINTS[setting.method.rule]
    if rows.ndim != 2:
        rows = rows.reshape(count, num_classes)
        if noise is not None:
            noise = noise.flatten(lead, lead + axes - 2) if axes > 1 else noise.unsqueeze(lead)

    def part(place: slice | None) -> _Part:
        some = rows if place is None else rows[place]
        packed = functools.partial(_pack_noise, layout, setting, noise, place, drawn)
        return _Part(place, adjoint(layout, setting, layout.pack(some), packed, drawn))

    size = (num_classes if num_classes > 2 else 1) * setting.num_noises  # elements of a packed row
    whole = size * count
    if torch.compiler.is_compiling():
        return [part(None)]
    places = _split(count, size, SERIAL if whole <= PARTS * SERIAL else LARGE)
    if whole * len(plan_of(setting.lambdas, setting.solver).evaluations) <= KEPT:
        return [part(place) for place in places]
    return (part(place) for place in places)


def _split(count: int, size: int, limit: int) -> list[slice | None]:
    pieces = min(-(-count * size // limit), count)
    if pieces <= 1:
        return [None]
    step = -(-count // pieces)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _pack_noise(layout: Layout, setting: Setting, noise: Tensor | None, place: slice | None, drawn: bool) -> Tensor:
    assert noise is not None
    averaged = setting.num_noises > 1
    if place is not None:
        noise = noise[:, place] if averaged else noise[place]
    noise = layout.pack_noise(noise, averaged)
    if averaged and drawn:
        axis = layout.noise_axis
        noise = torch.cat((noise, -noise), axis).narrow(axis, 0, setting.num_noises)
    return noise


def _value(parts: Iterable[_Part], rows: Tensor, x: Tensor | None, ticket: Tensor | None) -> Tensor:
    """The hard sample if there is a ticket to draw with, else the relaxed one."""
    layout = choose_layout(rows.shape[-1])
    # Made whole, filled through views: autograd forbids callers to change a view made inside a custom function in
    # place.
    flat = out = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    if rows.ndim != 2:
        flat = out.view(-1, rows.shape[-1])
        ticket = None if ticket is None else ticket.reshape(-1, *ticket.shape[rows.ndim - 1 :])
    for place, adjoint in parts:
        here = flat if place is None else flat[place]
        if ticket is not None:
            layout.draw(adjoint.law(), ticket if place is None else ticket[place], here)
        else:
            layout.unpack(adjoint.value(_pack_sample(layout, rows, x, place)), here)
    return out if ticket is None else spoil(out, rows)


def _gradient(parts: Iterable[_Part], rows: Tensor, x: Tensor | None, upstream: Tensor) -> Tensor:
    layout = choose_layout(rows.shape[-1])
    flat = upstream if upstream.ndim == 2 else upstream.reshape(-1, rows.shape[-1])
    out = None
    for place, adjoint in parts:
        given = layout.pack(flat if place is None else flat[place])
        result = layout.unpack_gradient(adjoint.gradient(given, _pack_sample(layout, rows, x, place)))
        if place is None:
            return result.contiguous().view(rows.shape)
        out = torch.empty_like(flat, memory_format=torch.contiguous_format) if out is None else out
        out[place] = result
    assert out is not None
    return out.reshape(rows.shape)


def _pack_sample(layout: Layout, rows: Tensor, x: Tensor | None, place: slice | None) -> Tensor | None:
    if x is None:
        return None
    x = x.reshape(-1, rows.shape[-1])
    return layout.pack_sample((x if place is None else x[place]).to(rows.dtype))


def _traced(
    rows: Tensor, noise: Tensor | None, x: Tensor | None, ticket: Tensor | None, setting: Setting, drawn: bool
) -> Tensor:
    """For torch.compile and export: the same draws, and the naive twin's gradient, which the compiler fuses."""
    if ticket is not None:
        x = _value(_parts(rows.detach(), noise, setting, drawn), rows, x, ticket)
    noise = None if noise is None else _by_class(noise, rows, setting, drawn)
    relaxed = naive_surrogate(setting, rows, noise, x)
    return relaxed if ticket is None or x is None else attach_gradient(x, relaxed)


def _by_class(noise: Tensor, rows: Tensor, setting: Setting, drawn: bool) -> Tensor:
    """Noise as the naive twin takes it."""
    averaged = setting.num_noises > 1
    noise = choose_layout(rows.shape[-1]).by_class(noise, rows, averaged)
    return torch.cat((noise, -noise))[: setting.num_noises] if averaged and drawn else noise
