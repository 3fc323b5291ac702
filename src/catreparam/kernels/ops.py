"""The kernels as custom operators, for calls that are traced: one sample, one gradient, one replay, on every device.

They carry a setting as plain arguments and a seed as a tensor. A path with kernels registers its passes for its device.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from catreparam.kernels.autograd import Passes, replayed
from catreparam.kernels.naive.sampling import naive_surrogate
from catreparam.kernels.settings import Setting

PASSES: dict[str, Passes] = {}  # device type -> passes, for seeds that are tensors


def sample_traced(setting: Setting, rows: Tensor, seed: Tensor) -> Tensor:
    """The sample for rows [*batch, num_classes] of a device in PASSES, under any tracer or transform."""
    if torch._C._are_functorch_transforms_active():
        return _Transformed.apply(rows, seed, setting.flat())
    return sample_op(rows, seed, *setting.flat())


@torch.library.custom_op("catreparam::sample", mutates_args=())
def sample_op(
    rows: Tensor, seed: Tensor, method: str, lambdas: Sequence[float], solver: str, hard: bool, num_noises: int,
    temperature: float, weight: float,
) -> Tensor:  # fmt: skip
    """The sample of a seed."""
    setting = Setting.unflat(method, lambdas, solver, hard, num_noises, temperature, weight)
    return PASSES[rows.device.type].forward(setting, rows, seed)


@torch.library.custom_op("catreparam::sample_backward", mutates_args=())
def backward_op(
    upstream: Tensor, rows: Tensor, seed: Tensor, method: str, lambdas: Sequence[float], solver: str, hard: bool,
    num_noises: int, temperature: float, weight: float,
) -> Tensor:  # fmt: skip
    """The gradient of `sample_op` with respect to rows."""
    setting = Setting.unflat(method, lambdas, solver, hard, num_noises, temperature, weight)
    return PASSES[rows.device.type].backward(setting, rows, upstream, seed)


@torch.library.custom_op("catreparam::sample_replay", mutates_args=())
def replay_op(
    rows: Tensor, seed: Tensor, method: str, lambdas: Sequence[float], solver: str, hard: bool, num_noises: int,
    temperature: float, weight: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The noise and the hard sample of a seed; empty where the method needs none."""
    setting = Setting.unflat(method, lambdas, solver, hard, num_noises, temperature, weight)
    noise, x = replayed(PASSES[rows.device.type], setting, rows, seed)
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
    setting = Setting.unflat(*ctx.setting)

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
