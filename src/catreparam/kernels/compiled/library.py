"""The compiled kernels as a C library: found, loaded, called on tensors. Knows nothing of autograd.

The numbers that `interface.h` gives too stand here under the same names.
"""

import ctypes
import functools
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from catreparam.kernels.methods import Rule
from catreparam.kernels.plan import plan_of
from catreparam.kernels.settings import Setting

VERSION = 5
RULES = frozenset({Rule.DIRECT, Rule.GUMBEL, Rule.CHAIN, Rule.MATCHED, Rule.SWEEP})
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
INVALID = 7  # NaN, +inf, a row that allows nothing
NO_MEMORY = 8
LARGEST_SEED = 2**63 - 1
KEPT_BYTES = 1 << 20  # a chain up to this is kept for backward: cheaper than making it again, and no memory to speak of
SMALL_ROOM = 1 << 15  # floats: the allocator has so much at hand
MOST_SPARE = 8


class _CSetting(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("rule", "hard", "num_noises", "num_evaluations")),
        *((name, ctypes.c_float) for name in ("temperature", "weight")),
        *((name, ctypes.c_int32) for name in ("num_intervals", "reserved")),
        *((name, ctypes.POINTER(ctypes.c_double)) for name in ("evaluations", "intervals")),
    ]


def _load() -> ctypes.CDLL | None:
    """The library, or None if it was not built or is another version's."""
    for path in sorted(Path(__file__).parent.glob("_compiled*.so")):
        try:
            library = ctypes.CDLL(str(path))
            if library.catreparam_version() == VERSION:
                return _declare(library)
        except (OSError, AttributeError):
            continue
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
    kept: "Room | None" = None,
) -> tuple[Tensor, int]:
    """The sample for rows [*batch, num_classes] of a dtype in DTYPES, and the flags of `INVALID`.

    `noise` (float32, [*batch, num_classes] or [num_noises, *batch, num_classes]) and `x` (float32, one-hot) replace
    what is drawn from the seed. `kept`, from `room_to_keep`, is filled with what spares `backward` making the chain
    again.
    """
    return _run(setting, logits, None, seed, noise, x, kept)


def backward(
    setting: Setting,
    logits: Tensor,
    upstream: Tensor,
    seed: int,
    noise: Tensor | None = None,
    x: Tensor | None = None,
    kept: "Room | None" = None,
) -> Tensor:
    """The gradient with respect to logits of what `forward` returned for the same arguments."""
    if upstream.dtype != logits.dtype or not upstream.is_contiguous() or upstream.is_neg():
        upstream = upstream.resolve_neg().to(logits.dtype).contiguous()
    return _run(setting, logits, upstream, seed, noise, x, kept)[0]


def _run(
    setting: Setting,
    logits: Tensor,
    upstream: Tensor | None,
    seed: int,
    noise: Tensor | None,
    x: Tensor | None,
    kept: "Room | None",
) -> tuple[Tensor, int]:
    logits = logits if logits.is_contiguous() else logits.contiguous()
    out = torch.empty_like(logits)
    flags = _library.catreparam_run(
        job_of(setting, logits.shape, logits.dtype).address, torch.get_num_threads(), seed, logits.data_ptr(),
        kept if kept is None else kept.address, out.data_ptr(), noise if noise is None else _explicit(noise),
        x if x is None else _explicit(x), upstream if upstream is None else upstream.data_ptr(),
    )  # fmt: skip
    if flags & NO_MEMORY:
        raise MemoryError(f"no memory for the scratch of {logits.shape[-1]} classes and {len(setting.lambdas)} steps")
    return out, flags


class Room:
    """Memory that a forward pass fills for its backward pass. The node's `Room` does the same, by the same rules."""

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
            super().__init__(_floats(floats))

    def __del__(self) -> None:
        floats = self.memory.numel()
        if len(_spare) > MOST_SPARE:
            _spare.clear()
        spare = _spare.setdefault(floats, [])
        if len(spare) < MOST_SPARE:
            spare.append(self.memory)


_spare: dict[int, list[Tensor]] = {}  # floats -> memory that nobody uses


def _floats(*shape: int) -> Tensor:
    """Memory for the kernels, whatever torch's default device and dtype are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def room_to_keep(setting: Setting, logits: Tensor) -> Room | None:
    """Room for what `forward` can leave for `backward`; None if there is nothing to leave or it is over KEPT_BYTES."""
    floats = job_of(setting, logits.shape, logits.dtype).kept_floats
    if floats == 0:
        return None
    return Room(_floats(floats)) if floats <= SMALL_ROOM else SharedRoom(floats)


def replay(setting: Setting, shape: Sequence[int], seed: int) -> Tensor:
    """The noise that `forward` makes from this seed: float32 [*shape], or [num_noises, *shape] for a sweep.

    For two classes only the difference of the noises matters; half of it stands on either side.
    """
    drawn = (setting.num_noises + 1) // 2
    out = _floats(drawn, *shape)
    classes = shape[-1]
    rows = out[0].numel() // classes
    _library.catreparam_replay(_plan(setting).address, rows, classes, torch.get_num_threads(), seed, out.data_ptr())
    return torch.cat([out, -out])[: setting.num_noises] if setting.method.rule == Rule.SWEEP else out[0]


def update(call: ctypes.Structure) -> bool:
    """A step of guidance, see `update.Update`; False if a gradient was not finite."""
    flags = _library.catreparam_update(ctypes.byref(call), torch.get_num_threads())
    if flags & NO_MEMORY:
        raise MemoryError(f"no memory for the scratch of {call.classes} classes")
    return not flags


def hot_classes(x: Tensor) -> Tensor | None:
    """x.argmax(-1) of float32 rows in memory one after the other, if each is exactly one-hot; else None."""
    hot = torch.empty(x.shape[:-1], dtype=torch.int64, device="cpu")
    not_hard = _library.catreparam_find_hot(
        x.data_ptr(), hot.numel(), x.shape[-1], torch.get_num_threads(), hot.data_ptr()
    )
    return None if not_hard else hot


def spacious(shape: Sequence[int], like: Tensor) -> Tensor:
    """torch.empty of this shape, in large pages where it is large: fresh ones cost more than filling them."""
    out = torch.empty(shape, dtype=like.dtype, device=like.device)
    if BUILT and out.is_cpu:
        _library.catreparam_ask_for_large_pages(out.data_ptr(), out.nbytes)
    return out


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, ...]:
    """One block of Philox4x32-10: four words from a counter of four and a key of two."""
    words = (ctypes.c_uint32 * 4)()
    _library.catreparam_philox((ctypes.c_uint32 * 4)(*counter), (ctypes.c_uint32 * 2)(*key), words)
    return tuple(words)


def address() -> int | None:
    """Where the library's `Run` is, for callers in C++."""
    return ctypes.cast(_library.catreparam_run, ctypes.c_void_p).value


class Job:
    """The library's own form of a setting, a shape and a dtype: looked up once a pass instead of handed over."""

    __slots__ = ("address", "free", "kept_floats", "plan")

    def __init__(self, plan: "CPlan", rows: int, classes: int, dtype: int) -> None:
        self.plan, self.free = plan, _library.catreparam_free_job  # kept: the module may be gone before the last job
        self.address = _library.catreparam_make_job(plan.address, dtype, rows, classes)
        floats = _library.catreparam_kept_floats(self.address)
        self.kept_floats = floats if 4 * floats <= KEPT_BYTES else 0

    def __del__(self) -> None:
        self.free(self.address)


@functools.lru_cache(maxsize=4096)
def job_of(setting: Setting, shape: torch.Size, dtype: torch.dtype) -> Job:
    return Job(_plan(setting), shape.numel() // shape[-1], shape[-1], DTYPES[dtype])


CACHES = [job_of.cache_clear]  # of jobs, here and with callers in C++


class CPlan:
    """The library's own form of a setting."""

    __slots__ = ("address", "free")

    def __init__(self, setting: Setting) -> None:
        self.address, self.free = None, _library.catreparam_free_plan  # of nothing, should the next lines fail
        if setting.method.rule not in RULES:
            raise ValueError(f"{setting.method} has no compiled kernel")
        evaluations, intervals = plan_of(setting.lambdas, setting.solver)
        tables = [list(chain.from_iterable(table)) for table in (evaluations, intervals)]
        plain = _CSetting(
            setting.method.rule, setting.hard, setting.num_noises, len(evaluations),
            setting.temperature, setting.weight, len(intervals), 0,
            *((ctypes.c_double * len(numbers))(*numbers) for numbers in tables),
        )  # fmt: skip
        self.address = _library.catreparam_make_plan(ctypes.byref(plain))

    def __del__(self) -> None:
        self.free(self.address)


@functools.lru_cache(maxsize=4096)
def _plan(setting: Setting) -> CPlan:
    return CPlan(setting)


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
    library.catreparam_run.argtypes = [pointer, number, ctypes.c_uint64, *[pointer] * 6]
    library.catreparam_update.argtypes = [pointer, number]
    library.catreparam_find_hot.argtypes = [pointer, long, long, number, pointer]
    library.catreparam_ask_for_large_pages.argtypes = [pointer, long]
    library.catreparam_replay.argtypes = [pointer, long, long, number, ctypes.c_uint64, pointer]
    return library


_library: Any = _load()  # at import, so that traced code sees a constant
BUILT = _library is not None
