"""The compiled kernels as a C library: found, loaded, called on tensors. Knows nothing of autograd."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from catreparam.kernels.settings import SOLVERS, Setting

VERSION = 3
METHODS = {
    name: number
    for number, name in enumerate(
        (
            "straight_through",
            "gumbel_softmax",
            "reinmax",
            "lambda_reinmax",
            "redge",
            "redge_cov",
            "reindge",
            "exact_redge",
        )
    )
}
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
KEPT_BYTES = 1 << 20  # a chain up to this is kept for backward: cheaper than making it again, and no memory to speak of
OUT_OF_MEMORY = 8
INVALID = 7  # NaN, +inf, a row that allows nothing


class _CSetting(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("method", "solver", "hard", "num_noises")),
        *((name, ctypes.c_float) for name in ("temperature", "weight")),
        *((name, ctypes.c_int32) for name in ("num_lambdas", "reserved")),
        ("lambdas", ctypes.POINTER(ctypes.c_double)),
    ]


def _load() -> ctypes.CDLL | None:
    """The library, or None if it was not built or is another version's."""
    for path in sorted(Path(__file__).parent.glob("_compiled*.so")):
        try:
            library = ctypes.CDLL(str(path))
            if library.catreparam_version() != VERSION:
                continue
        except (OSError, AttributeError):
            continue
        return _declare(library)
    return None


def instruction_set() -> str:
    """generic | avx2 | avx512, as chosen for this machine; empty without a library."""
    return _library.catreparam_instruction_set().decode() if BUILT else ""


def choose_instruction_set(name: str) -> bool:
    """Switches the kernels of this process to generic, avx2 or avx512 ("": the best there is); False if it cannot."""
    for forget in CACHES:  # what is kept depends on the width of a vector
        forget()
    return _library.catreparam_choose_instruction_set(name.encode()) == 0


def forward(
    setting: Setting,
    logits: Tensor,
    seed: int,
    noise: Tensor | None = None,
    x: Tensor | None = None,
    kept: Room | None = None,
) -> tuple[Tensor, int]:
    """The sample for rows [*batch, num_classes] of a dtype in DTYPES, and the flags of `INVALID`.

    `noise` (float32, [*batch, num_classes] or [num_noises, *batch, num_classes]) and `x` (float32, one-hot) replace
    what is drawn from the seed. `kept`, from `room_to_keep`, is filled with what spares `backward` making the chain again.
    """
    logits = logits if logits.is_contiguous() else logits.contiguous()
    out = torch.empty_like(logits)
    job = job_of(setting, logits.shape, logits.dtype)
    flags = _library.catreparam_forward(
        job.address, torch.get_num_threads(), seed, logits.data_ptr(), kept if kept is None else kept.address,
        out.data_ptr(), noise if noise is None else _explicit(noise), x if x is None else _explicit(x),
    )  # fmt: skip
    if flags & OUT_OF_MEMORY:
        raise _out_of_memory(setting, logits)
    return out, flags


def backward(
    setting: Setting,
    logits: Tensor,
    upstream: Tensor,
    seed: int,
    noise: Tensor | None = None,
    x: Tensor | None = None,
    kept: Room | None = None,
) -> Tensor:
    """The gradient with respect to logits of what `forward` returned for the same arguments."""
    logits = logits if logits.is_contiguous() else logits.contiguous()
    if upstream.dtype != logits.dtype or not upstream.is_contiguous():
        upstream = upstream.to(logits.dtype).contiguous()
    out = torch.empty_like(logits)
    job = job_of(setting, logits.shape, logits.dtype)
    flags = _library.catreparam_backward(
        job.address, torch.get_num_threads(), seed, logits.data_ptr(), kept if kept is None else kept.address,
        out.data_ptr(), noise if noise is None else _explicit(noise), x if x is None else _explicit(x),
        upstream.data_ptr(),
    )  # fmt: skip
    if flags & OUT_OF_MEMORY:
        raise _out_of_memory(setting, logits)
    return out


def _out_of_memory(setting: Setting, logits: Tensor) -> MemoryError:
    return MemoryError(f"no memory for the scratch of {logits.shape[-1]} classes and {len(setting.lambdas)} steps")


class Room:
    """Memory that a forward pass fills for its backward pass."""

    __slots__ = ("address", "memory")

    def __init__(self, memory: Tensor) -> None:
        self.memory = memory
        self.address = memory.data_ptr()


class SharedRoom(Room):
    """One that later calls use again: fresh pages cost more than filling them."""

    __slots__ = ()

    def __init__(self, floats: int) -> None:
        try:
            super().__init__(_spare[floats].pop())
        except (KeyError, IndexError):
            super().__init__(torch.empty(floats))

    def __del__(self) -> None:
        floats = self.memory.numel()
        if len(_spare) >= MOST_SPARE and floats not in _spare:
            _spare.clear()
        spare = _spare.setdefault(floats, [])
        if len(spare) < MOST_SPARE:
            spare.append(self.memory)


_spare: dict[int, list[Tensor]] = {}  # floats -> memory that nobody uses
MOST_SPARE = 8
SMALL_ROOM = 1 << 15  # floats: the allocator has so much at hand


def room_to_keep(setting: Setting, logits: Tensor) -> Room | None:
    """Room for what `forward` can leave for `backward`; None if there is nothing to leave or it is over KEPT_BYTES."""
    floats = job_of(setting, logits.shape, logits.dtype).kept_floats
    if floats == 0:
        return None
    return Room(torch.empty(floats)) if floats <= SMALL_ROOM else SharedRoom(floats)


def replay(setting: Setting, shape: Sequence[int], seed: int) -> Tensor:
    """The noise that `forward` makes from this seed: float32 [*shape], or [num_noises, *shape] for exact_redge.

    For two classes only the difference of the noises matters; half of it stands on either side.
    """
    drawn = (setting.num_noises + 1) // 2
    out = torch.empty(drawn, *shape)
    classes = shape[-1]
    rows = out[0].numel() // classes
    _library.catreparam_replay(_plan(setting).address, rows, classes, torch.get_num_threads(), seed, out.data_ptr())
    return torch.cat([out, -out])[: setting.num_noises] if setting.method == "exact_redge" else out[0]


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, ...]:
    """One block of Philox4x32-10: four words from a counter of four and a key of two."""
    words = (ctypes.c_uint32 * 4)()
    _library.catreparam_philox((ctypes.c_uint32 * 4)(*counter), (ctypes.c_uint32 * 2)(*key), words)
    return tuple(words)


def addresses() -> tuple[int, int]:
    """Where the library's passes are, forward and backward, for callers in C++."""
    passes = (_library.catreparam_forward, _library.catreparam_backward)
    return tuple(ctypes.cast(function, ctypes.c_void_p).value for function in passes)  # pyright: ignore[reportReturnType]


class Job:
    """The library's own form of a setting, a shape and a dtype: looked up once a pass instead of handed over."""

    __slots__ = ("address", "kept_floats", "plan")

    def __init__(self, plan: Plan, rows: int, classes: int, dtype: int) -> None:
        self.plan = plan
        self.address = _library.catreparam_make_job(plan.address, dtype, rows, classes)
        floats = _library.catreparam_kept_floats(self.address)
        self.kept_floats = floats if 4 * floats <= KEPT_BYTES else 0

    def __del__(self) -> None:
        _library.catreparam_free_job(self.address)


@functools.lru_cache(maxsize=4096)
def job_of(setting: Setting, shape: torch.Size, dtype: torch.dtype) -> Job:
    return Job(_plan(setting), shape.numel() // shape[-1], shape[-1], DTYPES[dtype])


CACHES = [job_of.cache_clear]  # of jobs, here and with callers in C++


class Plan:
    """The library's own form of a setting."""

    __slots__ = ("address",)

    def __init__(self, setting: Setting) -> None:
        self.address = None  # of nothing, should the next lines fail
        lambdas = (ctypes.c_double * len(setting.lambdas))(*setting.lambdas)
        plain = _CSetting(
            METHODS[setting.method], SOLVERS[setting.solver], setting.hard, setting.num_noises,
            setting.temperature, setting.weight, len(setting.lambdas), 0, lambdas,
        )  # fmt: skip
        self.address = _library.catreparam_make_plan(ctypes.byref(plain))

    def __del__(self) -> None:
        _library.catreparam_free_plan(self.address)


@functools.lru_cache(maxsize=4096)
def _plan(setting: Setting) -> Plan:
    return Plan(setting)


def _explicit(tensor: Tensor) -> int:
    if tensor.dtype != torch.float32 or not tensor.is_contiguous():
        raise ValueError(f"noise and x must be contiguous float32, got {tensor.dtype} with strides {tensor.stride()}")
    return tensor.data_ptr()


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number, long = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    library.catreparam_instruction_set.restype = ctypes.c_char_p
    library.catreparam_choose_instruction_set.argtypes = [ctypes.c_char_p]
    library.catreparam_make_plan.restype = library.catreparam_make_job.restype = pointer
    library.catreparam_make_job.argtypes = [pointer, number, long, long]
    library.catreparam_make_plan.argtypes = [ctypes.POINTER(_CSetting)]
    library.catreparam_free_job.argtypes = library.catreparam_free_plan.argtypes = [pointer]
    library.catreparam_kept_floats.restype = long
    library.catreparam_kept_floats.argtypes = [pointer]
    common = [pointer, number, ctypes.c_uint64, pointer, pointer, pointer, pointer, pointer]
    library.catreparam_forward.argtypes = common
    library.catreparam_backward.argtypes = [*common, pointer]
    library.catreparam_replay.argtypes = [pointer, long, long, number, ctypes.c_uint64, pointer]
    return library


_library: Any = _load()  # at import, so that traced code sees a constant
BUILT = _library is not None
