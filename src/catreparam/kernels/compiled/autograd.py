"""The compiled kernels with gradients: by the C++ node or its Python twin for eager calls, else as operators.

Both save the logits and a seed: the backward pass makes noise, sample and chain again, unless the chain was so small
that it was kept (`library.KEPT_BYTES`).
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import Parameter

from catreparam.kernels import ops
from catreparam.kernels.autograd import Passes, attach, differentiable_gradient
from catreparam.kernels.compiled import library, node
from catreparam.kernels.settings import Setting
from catreparam.kernels.tracing import is_traced
from catreparam.validation import check_rows, is_jit_tracing


def why_not(setting: Setting, logits: Tensor, num_classes: int) -> str:
    """Why the compiled kernels do not take a call with plain logits; empty if they do."""
    if setting.method.rule not in library.RULES:
        return f"{setting.method} has no compiled kernel"
    if not library.BUILT:
        return "the kernels were not built"
    if logits.device.type != "cpu":
        return f"logits are on {logits.device.type}, not on cpu"
    if not torch.compiler.is_compiling() and logits.is_neg():
        return "a view that negates lazily takes the torch path"
    return "" if logits.dtype in library.DTYPES else f"{logits.dtype} takes the torch path"


def sample(setting: Setting, rows: Tensor, generator: Generator | None = None) -> Tensor:
    """The sample of `setting.method` for rows [*batch, num_classes], with the method's gradient attached.

    rows: float32, bfloat16 or float16 on the CPU, impossible classes at -inf; the sample has their dtype. The seed of
    all noise comes from `generator` and advances it.
    Raises ValueError for rows with NaN or +inf or without an allowed class, if validation is on.
    """
    if is_traced():
        seed = torch.randint(library.LARGEST_SEED, (), generator=generator, device="cpu")
        return ops.sample_traced(setting, rows, seed)
    drawn = sample_usual(setting, rows, generator)
    return attach(PASSES, setting, rows, _draw_seed(generator)) if drawn is None else drawn


def _forward(
    setting: Setting, rows: Tensor, seed: int, noise: Tensor | None = None, x: Tensor | None = None, kept: Any = None
) -> Tensor:
    out, flags = library.forward(setting, rows, seed, noise, x, kept)
    if flags & library.INVALID:
        check_rows(rows)  # raises the right error, unless validation is off
    return out


def _replay(setting: Setting, rows: Tensor, seed: int) -> Tensor:
    return library.replay(setting, rows.shape, seed)


PASSES = Passes(_forward, library.backward, _replay, library.room_to_keep)
ops.PASSES["cpu"] = Passes(
    lambda setting, rows, seed, *given: _forward(setting, rows, int(seed), *given),
    lambda setting, rows, upstream, seed: library.backward(setting, rows, upstream, int(seed)),
    lambda setting, rows, seed: _replay(setting, rows, int(seed)),
    library.room_to_keep,
)


class _SeedPlace(threading.local):
    """An int64 tensor of this thread and its memory: filling it and looking is faster than making one and `item()`."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.tensor = torch.empty((), dtype=torch.int64, device="cpu")
        self.value = ctypes.c_int64.from_address(self.tensor.data_ptr())


_seed_place = _SeedPlace()


def _draw_seed(generator: Generator | None) -> int:
    _seed_place.tensor.random_(library.LARGEST_SEED, generator=generator)
    return _seed_place.value.value


def is_usual(setting: Setting, rows: Tensor, generator: Generator | None) -> bool:
    """Whether nothing but the kernels has to be thought of. The caller has to notice traced calls and forward mode."""
    return (
        (type(rows) is Tensor or type(rows) is Parameter)
        and rows.dtype in library.DTYPES
        and rows.is_cpu
        and rows.layout is torch.strided
        and not rows.is_nested
        and rows.ndim > 0
        and rows.shape[-1] > 0
        and not rows.is_neg()
        and (generator is None or (type(generator) is Generator and generator.device.type == "cpu"))
        and torch._C._len_torch_dispatch_stack() == 0
        and not is_jit_tracing()
        and setting.method.rule in library.RULES
    )


def _sample_in_python(setting: Setting, rows: Tensor, generator: Generator | None) -> Tensor | None:
    if library.BUILT and is_usual(setting, rows, generator):
        return attach(PASSES, setting, rows, _draw_seed(generator))
    return None


def _connect_node() -> Callable[[Setting, Tensor, Generator | None], Tensor | None]:
    """(setting, rows, generator) -> sample, or None for anything but the usual call, by the node if there is one."""
    if node.MODULE is None or not library.BUILT:
        return _sample_in_python
    node.MODULE.connect(library.address(), _make_owner, check_rows, _gradient_of_node)
    library.CACHES.append(node.MODULE.forget)
    return node.MODULE.sample


def _make_owner(setting: Setting, rows: Tensor) -> tuple[Setting, library.Job] | None:
    """What the node looks up once for a setting, a shape and a dtype, and keeps; None for a method without a kernel."""
    if setting.method.rule not in library.RULES:
        return None
    return setting, library.job_of(setting, rows.shape, rows.dtype)


def _gradient_of_node(owner: tuple[Setting, library.Job], rows: Tensor, upstream: Tensor, seed: int) -> Tensor:
    """What the node returns with create_graph=True."""
    return differentiable_gradient(PASSES, owner[0], rows, upstream, seed)


sample_usual = _connect_node()
