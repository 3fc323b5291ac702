"""The Triton kernels called on tensors, as `library` calls the compiled ones. Knows nothing of autograd.

Triton is imported on the first call only, so that a machine without it pays nothing. torch's CUDA wheels bring it.
"""

import functools
import importlib.util
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import torch
from torch import Tensor

from catreparam.kernels.methods import Rule
from catreparam.kernels.plan import plan_of
from catreparam.kernels.settings import Setting

OLDEST = (3, 3)  # the first release whose kernels keep a chain of tiles in a tuple
HELD, MOST_HELD = 2048, 16384  # classes of a row that a program holds whole without spilling, and at all
PIECE, PIECE_WARPS = 2048, 8  # classes of a piece, and the program's warps
LEAST_PIECES = 32  # of which one is drawn: with a number for every thread of a warp nothing spills
MOST_WARPS = 32  # of a program
MOST_EVALUATIONS, MOST_STREAMED_EVALUATIONS = 33, 7  # the chain is unrolled; along wide rows once for every softmax
TILES = ((16, 256, 1), (1024, 1024, 4))  # (up to so many classes, elements of a tile, its warps); measured on an H200
RULES = frozenset({Rule.DIRECT, Rule.GUMBEL, Rule.CHAIN, Rule.MATCHED, Rule.SWEEP})
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _why_unavailable() -> str:
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed; torch's CUDA wheels bring it"
    try:
        found = version("triton")
    except PackageNotFoundError:
        return ""  # another distribution of the same module
    if tuple(int(part) for part in found.split(".")[:2] if part.isdigit()) < OLDEST:
        return f"triton {found} is older than {OLDEST[0]}.{OLDEST[1]}"
    return ""


UNAVAILABLE = _why_unavailable()  # at import, so that traced code sees a constant


def why_not(setting: Setting, logits: Tensor, num_classes: int) -> str:
    """Why the Triton kernels do not take a call with plain logits; empty if they do."""
    if setting.method.rule not in RULES:
        return f"{setting.method} has no Triton kernel"
    if logits.device.type != "cuda":
        return f"logits are on {logits.device.type}, not on cuda"
    if UNAVAILABLE:
        return UNAVAILABLE
    if logits.dtype not in DTYPES:
        return f"{logits.dtype} takes the torch path"
    most = MOST_EVALUATIONS if num_classes <= MOST_HELD else MOST_STREAMED_EVALUATIONS
    if _softmaxes(setting) > most:
        return (
            f"{_softmaxes(setting)} softmaxes are more than the {most} that a kernel unrolls for {num_classes} classes"
        )
    return ""


def forward(
    setting: Setting,
    logits: Tensor,
    seed: int | Tensor,
    noise: Tensor | None = None,
    x: Tensor | None = None,
    flags: Tensor | None = None,
) -> Tensor:
    """The sample for rows [*batch, num_classes] of a dtype in DTYPES; NaN in rows that hold NaN or +inf or no class.

    seed: a number of at least 2^31, or an int64 scalar on the device of logits. `noise` (float32, [*batch, num_classes]
    or [num_noises, *batch, num_classes]) and `x` (float32, one-hot) replace what is drawn from it. `flags` (int32, [4]
    or more): gets 1 at the places that `catreparam.pending` has for what is wrong with rows.
    """
    logits = logits.resolve_neg().contiguous()
    flags = torch.empty(4, dtype=torch.int32, device=logits.device) if flags is None else flags
    tiles = _tiles(logits.shape, _is_streamed(setting, logits.shape[-1]))
    out = _room(setting, logits, tiles)
    if tiles.programs:
        with _on(logits):
            _forward_kernel(tiles.streamed)[(tiles.programs,)](
                logits, _given(noise, logits), _given(x, logits), seed, _table(setting, logits), out, flags,
                tiles.rows, tiles.classes, setting.temperature,
                RULE=_name(setting), HARD=setting.hard, GIVEN_X=x is not None,
                **_compiled_in(setting, noise), **tiles.shape,
            )  # fmt: skip
    return out.to(logits.dtype)


def backward(
    setting: Setting,
    logits: Tensor,
    upstream: Tensor,
    seed: int | Tensor,
    noise: Tensor | None = None,
    x: Tensor | None = None,
) -> Tensor:
    """The gradient with respect to logits of what `forward` returned for the same arguments."""
    logits, upstream = (tensor.resolve_neg().to(logits.dtype).contiguous() for tensor in (logits, upstream))
    tiles = _tiles(logits.shape, _is_streamed(setting, logits.shape[-1]))
    out = _room(setting, logits, tiles)
    if tiles.programs:
        with _on(logits):
            _backward_kernel(tiles.streamed)[(tiles.programs,)](
                logits, upstream, _given(noise, logits), _given(x, logits), seed, _table(setting, logits), out,
                tiles.rows, tiles.classes, setting.temperature, setting.weight,
                RULE=_name(setting), TEMPERED=setting.temperature != 1.0, INTERVALS=len(setting.lambdas) - 1,
                SECOND=setting.weight != 0.0, GIVEN_X=x is not None, **_compiled_in(setting, noise), **tiles.shape,
            )  # fmt: skip
    return out.to(logits.dtype)


def replay(setting: Setting, like: Tensor, seed: int | Tensor) -> Tensor:
    """The noise that `forward` makes from this seed: float32 [*like.shape], or [num_noises, ...] for a sweep."""
    tiles = _tiles(like.shape, _is_streamed(setting, like.shape[-1]))
    pieces = tiles.shape.get("PIECES", 1)
    shape = {"ROWS": 1} | {name: size for name, size in tiles.shape.items() if name != "PIECES"}
    streams = (setting.num_noises + 1) // 2
    out = torch.empty(streams, *like.shape, dtype=torch.float32, device=like.device)
    for stream in range(streams if tiles.programs else 0):
        with _on(like):
            _replay_kernel()[(tiles.programs, pieces)](
                out[stream], seed, tiles.rows, tiles.classes, stream,
                GUMBEL=setting.method.rule == Rule.GUMBEL, **shape,
            )  # fmt: skip
    return torch.cat([out, -out])[: setting.num_noises] if setting.method.rule == Rule.SWEEP else out[0]


def _forward_kernel(streamed: bool) -> Any:
    from catreparam.kernels.triton.forward import forward_kernel
    from catreparam.kernels.triton.streamed_forward import streamed_forward_kernel

    return streamed_forward_kernel if streamed else forward_kernel


def _backward_kernel(streamed: bool) -> Any:
    from catreparam.kernels.triton.backward import backward_kernel
    from catreparam.kernels.triton.streamed_backward import streamed_backward_kernel

    return streamed_backward_kernel if streamed else backward_kernel


def _replay_kernel() -> Any:
    from catreparam.kernels.triton.forward import replay_kernel

    return replay_kernel


class _Tiles(NamedTuple):
    rows: int
    classes: int
    programs: int
    streamed: bool
    shape: dict[str, Any]  # what shapes the kernel: compile-time sizes and options


def _is_streamed(setting: Setting, classes: int) -> bool:
    """Whether a program goes along a row in pieces, again for every softmax; rows that it holds have to fit."""
    softmaxes = _softmaxes(setting)
    fits = 2 * HELD if setting.method.rule != Rule.MATCHED and softmaxes <= 5 else HELD
    return classes > (fits if softmaxes <= MOST_STREAMED_EVALUATIONS else MOST_HELD)


@functools.lru_cache(maxsize=4096)
def _tiles(shape: torch.Size, streamed: bool) -> _Tiles:
    """Small rows: many to a program. Large ones: one to a program, eight classes to a thread, or piece by piece."""
    classes = shape[-1]
    rows = shape.numel() // classes
    if streamed:
        pieces = max(LEAST_PIECES, 1 << ((classes - 1) // PIECE).bit_length())
        sizes = {"CLASSES": PIECE, "PIECES": pieces, "num_warps": PIECE_WARPS, "enable_fp_fusion": True}
        return _Tiles(rows, classes, rows, True, sizes)
    width = 1 << (classes - 1).bit_length()
    elements, warps = next(((size, warps) for most, size, warps in TILES if width <= most), (width, width // 256))
    height = max(1, elements // width)
    sizes = {"ROWS": height, "CLASSES": width, "num_warps": min(warps, MOST_WARPS), "enable_fp_fusion": True}
    return _Tiles(rows, classes, -(-rows // height), False, sizes)


def _room(setting: Setting, logits: Tensor, tiles: _Tiles) -> Tensor:
    """For the result; a streamed row adds the noises up in it, in float32."""
    adds = tiles.streamed and setting.method.rule == Rule.SWEEP and setting.num_noises > 1
    return torch.empty_like(logits, dtype=torch.float32 if adds else logits.dtype)


def _compiled_in(setting: Setting, noise: Tensor | None) -> dict[str, Any]:
    """What both kernels have as constants."""
    return {
        "EVALUATIONS": _softmaxes(setting),
        "FROM_ZERO": setting.lambdas[0] == 0.0,
        "NOISES": setting.num_noises,
        "GIVEN_NOISE": noise is not None,
    }


def _name(setting: Setting) -> str:
    """The rule as the kernels compare it."""
    assert setting.method.rule is not None
    return setting.method.rule.name


def _softmaxes(setting: Setting) -> int:
    return len(plan_of(setting.lambdas, setting.solver).evaluations)


@functools.lru_cache(maxsize=1024)
def _numbers(lambdas: tuple[float, ...], solver: str, device: torch.device) -> Tensor:
    """The evaluations of a plan, eight numbers each, then its intervals, as one float32 tensor."""
    evaluations, intervals = plan_of(lambdas, solver)
    numbers = [number for row in (*evaluations, *intervals) for number in row]
    # Memory that a device reads by itself, but not at every replay of a graph: there a copy is torch's error.
    pinned = device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
    return torch.tensor(numbers, dtype=torch.float32, device="cpu", pin_memory=pinned).to(device, non_blocking=True)


def _table(setting: Setting, logits: Tensor) -> Tensor:
    return _numbers(setting.lambdas, setting.solver, logits.device)


def _given(tensor: Tensor | None, logits: Tensor) -> Tensor:
    """Noise or x as given; where it is not, any tensor: the kernel does not read it."""
    if tensor is None:
        return logits
    if tensor.dtype != torch.float32 or not tensor.is_contiguous() or tensor.device != logits.device:
        raise ValueError(
            f"noise and x must be contiguous float32 on {logits.device}, got {tensor.dtype} on {tensor.device} with "
            f"strides {tensor.stride()}"
        )
    return tensor


def _on(logits: Tensor) -> AbstractContextManager[object]:
    """Kernels start on the current device, which need not be that of the logits."""
    return torch.cuda.device(logits.device) if logits.is_cuda else nullcontext()
