"""Which path a call takes: compiled (CPU) or Triton (CUDA) kernels where they apply, else torch, else naive. Per call."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn import Parameter

from catreparam.categorical import from_rows, to_rows
from catreparam.kernels.compiled import autograd as compiled
from catreparam.kernels.compiled import library
from catreparam.kernels.compiled.library import DTYPES
from catreparam.kernels.settings import Setting
from catreparam.kernels.torch import autograd as fast
from catreparam.kernels.triton import autograd as triton_autograd
from catreparam.kernels.triton import launch as triton_launch
from catreparam.validation import (
    check_choice,
    check_generator,
    check_logits,
    check_mask,
)

ENVIRONMENT = "CATREPARAM_KERNELS"
# In order of preference; the environment variable names the first to try.
PATHS = ("compiled", "triton", "torch", "naive")


def sample(
    logits: Tensor, mask: Tensor | None, dim: int, generator: Generator | None, setting: Setting
) -> Tensor | None:
    """The estimator's sample, in the layout of `logits`, from the fastest path that applies; None for the naive twin.

    Raises for bad logits, masks and generators what `catreparam.categorical.to_rows` raises.
    """
    if (
        mask is None
        and dim == -1
        and _wanted in USUAL
        and not is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    ):
        x = compiled.sample_usual(setting, logits, generator)  # the usual call, recognised with few instructions
        if x is not None:
            return x
    path = choose_path(logits, setting.method)
    if path == "naive":
        return None
    if path == "triton":
        check_logits(logits, dim)
        if triton_launch.why_too_large(setting, logits.shape[dim]):
            if why_not_torch(logits, setting.method):
                return None
            path = "torch"
    if path == "torch":
        rows = to_rows(logits, mask, dim, generator)
        x = fast.sample(setting, rows, generator=generator)
        return x if dim == -1 and x.dtype == logits.dtype else from_rows(x, logits, dim)
    check_logits(logits, dim)
    check_generator(generator, logits.device)
    rows = logits
    if mask is not None:
        check_mask(mask, logits)
        rows = rows.masked_fill(~mask, -torch.inf)
    last = dim in (-1, rows.ndim - 1)
    rows = rows if last else rows.movedim(dim, -1)
    x = (triton_autograd if path == "triton" else compiled).sample(setting, rows, generator=generator)
    return x if last else x.movedim(-1, dim)


def choose_path(logits: Tensor, method: str) -> str:
    """compiled | triton | torch | naive, the path that a call with these logits takes.

    The environment variable CATREPARAM_KERNELS, read at import, names the fastest path to use. Raises ValueError if it
    names none, RuntimeError if it asks for kernels that are not there. Calls too large for the Triton kernels (as
    `triton_launch.why_too_large` says) fall to the torch path.
    """
    if wanted() == "naive":
        return "naive"
    if applies(logits):
        return "compiled"
    if not why_not_triton(logits):
        return "triton"
    return "naive" if why_not_torch(logits, method) else "torch"


_wanted = os.environ.get(ENVIRONMENT, "")  # read once: asking the environment takes as long as checking a tensor
USUAL = ("", "compiled") if library.BUILT else ()  # wishes with which the usual call takes the compiled kernels


def wanted() -> str:
    """The path asked for, empty if none was. Raises ValueError unless it is one of PATHS."""
    return _wanted if not _wanted or _wanted in PATHS else check_choice(ENVIRONMENT, _wanted, PATHS)


@contextmanager
def using(path: str) -> Iterator[None]:
    """Inside, calls of this process take `path` (compiled | triton | torch | naive) or a slower one; empty: the fastest."""
    global _wanted
    before, _wanted = _wanted, check_choice("path", path, PATHS) if path else ""
    try:
        yield
    finally:
        _wanted = before


def why_not_torch(logits: Tensor, method: str) -> str:
    """Why the torch path does not take a call; empty if it does."""
    if method not in fast.METHODS:
        return f"{method} has no torch path"
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim == 0:
        return "no floating tensor with a class axis"
    if logits.layout != torch.strided or (type(logits) not in (Tensor, Parameter) and not compiled.is_traced()):
        return f"a {type(logits).__name__} of layout {logits.layout} is no plain tensor"
    if in_forward_mode():
        return "forward-mode derivatives, and transforms inside torch.compile, take the naive path"
    return ""


def applies(logits: Tensor) -> bool:
    """Whether the compiled kernels take these logits."""
    return why_not(logits) == ""


def why_not(logits: Tensor) -> str:
    """Why the compiled kernels do not take these logits; empty if they do.

    Raises RuntimeError if the environment asks for them and they were not built.
    """
    if wanted() in ("naive", "torch", "triton"):
        return f"{ENVIRONMENT}={wanted()}"
    if not library.BUILT:
        if wanted() == "compiled":
            raise RuntimeError(f"{ENVIRONMENT}=compiled, but the kernels were not built; install with a C++ compiler")
        return "the kernels were not built"
    if type(logits) not in (Tensor, Parameter) and not compiled.is_traced():
        return f"a {type(logits).__name__} is no plain tensor"
    if logits.device.type != "cpu" or logits.layout != torch.strided:
        return f"{logits.layout} on {logits.device.type}"
    if not is_compiling() and logits.is_neg():
        return "a view that negates lazily takes the torch path"
    if logits.dtype not in DTYPES:
        return f"{logits.dtype} takes the torch path"
    if in_forward_mode():
        return "forward-mode derivatives, and transforms inside torch.compile, take the naive path"
    return ""


def why_not_triton(logits: Tensor) -> str:
    """Why the Triton kernels do not take these logits; empty if they do.

    Raises RuntimeError if the environment asks for them, the logits are on CUDA and triton is not there.
    """
    if wanted() in ("naive", "torch"):
        return f"{ENVIRONMENT}={wanted()}"
    if type(logits) not in (Tensor, Parameter) and not compiled.is_traced():
        return f"a {type(logits).__name__} is no plain tensor"
    if logits.layout != torch.strided:
        return f"{logits.layout} tensors take the naive path"
    reason = triton_launch.why_not(logits)
    if reason and logits.is_cuda and reason == triton_launch.UNAVAILABLE and wanted() == "triton":
        raise RuntimeError(f"{ENVIRONMENT}=triton, but {reason}")
    if not reason and in_forward_mode():
        return "forward-mode derivatives, and transforms inside torch.compile, take the naive path"
    return reason


def in_forward_mode() -> bool:
    """Whether forward-mode derivatives may be asked for, which autograd functions of ours do not give."""
    if forward_ad._current_level >= 0:
        return True
    if not torch._C._are_functorch_transforms_active():
        return False
    if is_compiling():
        return True
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    stack = functorch.get_interpreter_stack() or []
    return any(level.key() == functorch.TransformType.Jvp for level in stack)
