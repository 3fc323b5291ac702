"""The compiled kernels with gradients attached: an autograd function for eager calls, custom ops for traced ones.

Both save the logits and a seed: the backward pass makes noise, sample and chain again. The autograd function also keeps
the chain where that is no memory to speak of (`library.KEPT_BYTES`).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import Parameter

from catreparam.kernels.compiled import library, node
from catreparam.kernels.naive.twins import naive_gradient, naive_surrogate, needs_noise, needs_sample
from catreparam.kernels.settings import Setting
from catreparam.validation import check_rows

LARGEST_SEED = 2**63 - 1


def sample(
    setting: Setting,
    rows: Tensor,
    *,
    generator: Generator | None = None,
    noise: Tensor | None = None,
    x: Tensor | None = None,
) -> Tensor:
    """The sample of `setting.method` for rows [*batch, num_classes], with the method's gradient attached.

    rows: float32, bfloat16 or float16 on the CPU, impossible classes at -inf; the sample has their dtype. The seed of
    all noise comes from `generator` and advances it. `noise` and `x` (float32, eager only) replace what would be drawn.
    Raises ValueError for rows with NaN or +inf or without an allowed class, if validation is on.
    """
    if is_traced():
        seeds = torch.randint(LARGEST_SEED, (), generator=generator)
        if torch._C._are_functorch_transforms_active():
            return _Transformed.apply(rows, seeds, _flat(setting))
        return sample_op(rows, seeds, *_flat(setting))
    return sample_eagerly(setting, rows, generator, noise, x)


def sample_eagerly(
    setting: Setting, rows: Tensor, generator: Generator | None, noise: Tensor | None = None, x: Tensor | None = None
) -> Tensor:
    """`sample` where `is_traced()` is False."""
    if noise is None and x is None:
        drawn = sample_usual(setting, rows, generator)
        if drawn is not None:
            return drawn
    return _sample_in_python(setting, rows, generator, noise, x)


def _sample_in_python(
    setting: Setting, rows: Tensor, generator: Generator | None, noise: Tensor | None = None, x: Tensor | None = None
) -> Tensor:
    seed = _draw_seed(generator)
    if not (rows.requires_grad and torch.is_grad_enabled()):
        return _checked(setting, rows, seed, noise, x)
    if noise is None and x is None:
        return _Sample.apply(rows, setting, seed)
    return _Given.apply(rows, noise, x, setting, seed)


class _SeedPlace(threading.local):
    """An int64 tensor of this thread and its memory: filling it and looking is faster than making one and `item()`."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.tensor = torch.empty((), dtype=torch.int64, device="cpu")
        self.value = ctypes.c_int64.from_address(self.tensor.data_ptr())


_seed_place = _SeedPlace()


def _draw_seed(generator: Generator | None) -> int:
    _seed_place.tensor.random_(LARGEST_SEED, generator=generator)
    return _seed_place.value.value


def is_traced() -> bool:
    """Whether tensors may stand for others here: torch.compile, export, torch.func transforms, dispatch modes."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )


def _checked(
    setting: Setting,
    rows: Tensor,
    seed: int,
    noise: Tensor | None = None,
    x: Tensor | None = None,
    kept: library.Room | None = None,
) -> Tensor:
    out, flags = library.forward(setting, rows, seed, noise, x, kept)
    if flags & library.INVALID:
        check_rows(rows)  # raises the right error, unless validation is off
    return out


class _Sample(torch.autograd.Function):
    """The usual call, with as few steps as there can be: a small one takes no longer than they do."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, setting: Setting, seed: int) -> Tensor:
        ctx.save_for_backward(rows)
        kept = library.room_to_keep(setting, rows)
        ctx.call = setting, seed, kept
        return _checked(setting, rows, seed, None, None, kept)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (rows,) = ctx.saved_tensors
        setting, seed, kept = ctx.call
        if torch.is_grad_enabled():  # create_graph=True: second derivatives are the naive twin's
            noise, x = _replay(setting, rows.detach(), seed)
            return naive_gradient(setting, rows, upstream, noise, x), None, None
        return library.backward(setting, rows, upstream, seed, None, None, kept), None, None


def _sample_usual(setting: Setting, rows: Tensor, generator: Generator | None) -> Tensor | None:
    usual = (
        (type(rows) is Tensor or type(rows) is Parameter)
        and rows.dtype in library.DTYPES
        and rows.is_cpu
        and rows.layout is torch.strided
        and rows.ndim > 0
        and rows.shape[-1] > 0
        and not rows.is_neg()
        and (generator is None or (type(generator) is Generator and generator.device.type == "cpu"))
        and torch._C._len_torch_dispatch_stack() == 0
    )
    return _sample_in_python(setting, rows, generator) if usual else None


def _connect_node() -> Callable[[Setting, Tensor, Generator | None], Tensor | None]:
    """(setting, rows, generator) -> sample, or None for anything but the usual call, by the node if there is one.

    Usual is an exact Tensor or Parameter of a kernel's dtype on the CPU, with a class, outside dispatch modes. What the
    caller has to notice: compiled code, torch.func, and forward-mode derivatives.
    """
    if node.MODULE is None or not library.BUILT:
        return _sample_usual
    node.MODULE.connect(*library.addresses(), _make_owner, check_rows, _differentiable_gradient)
    library.CACHES.append(node.MODULE.forget)
    return node.MODULE.sample


def _make_owner(setting: Setting, rows: Tensor) -> tuple[Setting, library.Job]:
    """What the node looks up once for a setting, a shape and a dtype, and keeps alive."""
    return setting, library.job_of(setting, rows.shape, rows.dtype)


def _differentiable_gradient(owner: tuple[Setting, library.Job], rows: Tensor, upstream: Tensor, seed: int) -> Tensor:
    """What the node returns with create_graph=True: the gradient by the naive twin."""
    setting = owner[0]
    noise, x = _replay(setting, rows.detach(), seed)
    return naive_gradient(setting, rows, upstream, noise, x)


sample_usual = _connect_node()


class _Given(torch.autograd.Function):
    """The same with noise and sample given."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, noise: Tensor | None, x: Tensor | None, setting: Setting, seed: int) -> Tensor:
        ctx.save_for_backward(rows, noise, x)
        ctx.call = setting, seed
        return _checked(setting, rows, seed, noise, x)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, noise, x = ctx.saved_tensors
        setting, seed = ctx.call
        if not torch.is_grad_enabled():
            return library.backward(setting, rows, upstream, seed, noise, x), None, None, None, None
        replayed = _replay(setting, rows.detach(), seed)
        noise, x = (given if given is not None else made for given, made in zip((noise, x), replayed, strict=True))
        return naive_gradient(setting, rows, upstream, noise, x), None, None, None, None


def _replay(setting: Setting, rows: Tensor, seed: int) -> tuple[Tensor | None, Tensor | None]:
    """The noise and the hard sample of a seed, each None where the method's surrogate does not take it."""
    noise = library.replay(setting, rows.shape, seed) if needs_noise(setting) else None
    x = library.forward(setting._replace(hard=True), rows, seed)[0].float() if needs_sample(setting) else None
    return noise, x


# --- the same as custom ops, which carry a setting as plain arguments ---


def _flat(setting: Setting) -> tuple[str, list[float], str, bool, int, float, float]:
    return (setting.method, list(setting.lambdas), *setting[2:])


def _unflat(method: str, lambdas: Sequence[float], *rest: Any) -> Setting:
    return Setting(method, tuple(lambdas), *rest)


@torch.library.custom_op("catreparam::sample", mutates_args=(), device_types="cpu")
def sample_op(
    rows: Tensor, seed: Tensor, method: str, lambdas: Sequence[float], solver: str, hard: bool, num_noises: int,
    temperature: float, weight: float,
) -> Tensor:  # fmt: skip
    """`sample` for a seed given as a tensor."""
    setting = _unflat(method, lambdas, solver, hard, num_noises, temperature, weight)
    return _checked(setting, rows, int(seed))


@torch.library.custom_op("catreparam::sample_backward", mutates_args=(), device_types="cpu")
def backward_op(
    upstream: Tensor, rows: Tensor, seed: Tensor, method: str, lambdas: Sequence[float], solver: str, hard: bool,
    num_noises: int, temperature: float, weight: float,
) -> Tensor:  # fmt: skip
    """The gradient of `sample_op` with respect to rows."""
    setting = _unflat(method, lambdas, solver, hard, num_noises, temperature, weight)
    return library.backward(setting, rows, upstream, int(seed))


@torch.library.custom_op("catreparam::sample_replay", mutates_args=(), device_types="cpu")
def replay_op(
    rows: Tensor, seed: Tensor, method: str, lambdas: Sequence[float], solver: str, hard: bool, num_noises: int,
    temperature: float, weight: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The noise and the hard sample of a seed; empty where the method needs none."""
    setting = _unflat(method, lambdas, solver, hard, num_noises, temperature, weight)
    noise, x = _replay(setting, rows, int(seed))
    return rows.new_empty(0) if noise is None else noise, rows.new_empty(0) if x is None else x


@sample_op.register_fake
def _(rows: Tensor, seed: Tensor, *setting: Any) -> Tensor:
    return torch.empty_like(rows, memory_format=torch.contiguous_format)


@backward_op.register_fake
def _(upstream: Tensor, rows: Tensor, seed: Tensor, *setting: Any) -> Tensor:
    return torch.empty_like(rows, memory_format=torch.contiguous_format)


def _setup_sample(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.setting = inputs[2:]


def _sample_gradient(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
    rows, seed = ctx.saved_tensors
    return (backward_op(upstream, rows, seed, *ctx.setting), None, *(None for _ in ctx.setting))


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.setting = inputs[3:]


def _second_gradient(ctx: Any, direction: Tensor) -> tuple[Any, ...]:
    upstream, rows, seed = ctx.saved_tensors
    noise, x = replay_op(rows.detach(), seed, *ctx.setting)
    setting = _unflat(*ctx.setting)

    def gradient(at: Tensor, g: Tensor) -> Tensor:
        surrogate, pull_back = torch.func.vjp(lambda r: naive_surrogate(setting, r.float(), noise, x), at)[:2]
        return pull_back(g.to(surrogate.dtype))[0]

    to_rows, to_upstream = torch.func.vjp(gradient, rows, upstream)[1](direction)
    return (to_upstream, to_rows, None, *(None for _ in ctx.setting))


sample_op.register_autograd(_sample_gradient, setup_context=_setup_sample)
backward_op.register_autograd(_second_gradient, setup_context=_setup_backward)


def _batched(op: Any, tensors: int) -> Any:
    """A vmap rule: the batch becomes rows. With one seed for the whole batch (randomness="same") a call for each."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        *rows, seed = arguments[: tensors + 1]
        setting = arguments[tensors + 1 :]
        dims = in_dims[: tensors + 1]
        rows = [
            row.unsqueeze(0).expand(info.batch_size, *row.shape) if dim is None else row.movedim(dim, 0)
            for row, dim in zip(rows, dims, strict=False)
        ]
        if dims[-1] is not None:  # a seed for each: rows of one call are independent, so the first will do for all
            return op(*(row.contiguous() for row in rows), seed.select(dims[-1], 0), *setting), 0
        one_by_one = [op(*(row[i].contiguous() for row in rows), seed, *setting) for i in range(info.batch_size)]
        return torch.stack(one_by_one), 0

    return rule


sample_op.register_vmap(_batched(sample_op, 1))
backward_op.register_vmap(_batched(backward_op, 2))


# --- torch.func does not look into the ops' own gradients: two functions that call the ops and are theirs ---


class _Transformed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, seed: Tensor, setting: tuple[Any, ...]) -> Tensor:
        return sample_op(rows, seed, *setting)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.setting = inputs[2]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _TransformedBackward.apply(upstream, *ctx.saved_tensors, ctx.setting), None, None


class _TransformedBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(upstream: Tensor, rows: Tensor, seed: Tensor, setting: tuple[Any, ...]) -> Tensor:
        return backward_op(upstream, rows, seed, *setting)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.setting = inputs[3]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        to_upstream, to_rows, *_ = _second_gradient(ctx, direction)
        return to_upstream, to_rows, None, None
