"""Which path a call takes: the first of PATHS that has no reason against it. Decided per call."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Generator, Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from catreparam.categorical import from_rows, lay_out, to_rows
from catreparam.kernels.compiled import autograd as compiled_path
from catreparam.kernels.compiled import library
from catreparam.kernels.naive import sampling as naive_path
from catreparam.kernels.settings import Setting
from catreparam.kernels.torch import autograd as torch_path
from catreparam.kernels.tracing import why_not_plain
from catreparam.kernels.triton import autograd as triton_path
from catreparam.kernels.triton import launch
from catreparam.validation import check_choice, is_whole

ENVIRONMENT = "CATREPARAM_KERNELS"
# In order of preference. Each has `sample(setting, rows, generator)`, all but the last, which takes everything, also
# `why_not(setting, logits, num_classes)`.
PATHS: dict[str, ModuleType] = {
    "compiled": compiled_path,
    "triton": triton_path,
    "torch": torch_path,
    "naive": naive_path,
}
NAMES = tuple(PATHS)  # the environment variable names the first to try


def sample(logits: Tensor, mask: Tensor | None, dim: int, generator: Generator | None, setting: Setting) -> Tensor:
    """The estimator's sample, in the layout of `logits`, from the fastest path that applies.

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
        x = compiled_path.sample_usual(setting, logits, generator)  # the usual call, recognised with few instructions
        if x is not None:
            return x
    path = choose_path(setting, logits, dim)
    # Torch's operations want the dtype of `to_rows`, which looks at the values; kernels do both by themselves.
    rows = (to_rows if path in ("torch", "naive") else lay_out)(logits, mask, dim, generator)
    x = PATHS[path].sample(setting.for_rows(rows, dim), rows, generator)
    return x if dim == -1 and x.dtype == logits.dtype else from_rows(x, logits, dim)


def choose_path(setting: Setting, logits: Tensor, dim: int = -1) -> str:
    """compiled | triton | torch | naive, the path that a call with these logits takes.

    The environment variable CATREPARAM_KERNELS, read at import, names the fastest path to use. Raises ValueError if it
    names none, RuntimeError if it asks for kernels that are not there.
    """
    for name in PATHS:
        if not why_not(name, setting, logits, dim):
            return name
    raise AssertionError("the naive path takes everything")


def why_not(name: str, setting: Setting, logits: Tensor, dim: int = -1) -> str:
    """Why the path of a name does not take a call; empty if it does. Raises as `choose_path`."""
    if NAMES.index(name) < NAMES.index(wanted() or NAMES[0]):
        return f"{ENVIRONMENT}={wanted()}"
    if name == "naive":
        return ""
    if reason := why_not_plain(logits):
        return reason
    if not is_whole(dim) or not -logits.ndim <= dim < logits.ndim:
        return f"there is no axis {dim}"  # the naive path says so in more words
    if wanted() == name == "compiled" and not library.BUILT:
        raise RuntimeError(f"{ENVIRONMENT}=compiled, but the kernels were not built; install with a C++ compiler")
    if wanted() == name == "triton" and logits.is_cuda and launch.UNAVAILABLE:
        raise RuntimeError(f"{ENVIRONMENT}=triton, but {launch.UNAVAILABLE}")
    return PATHS[name].why_not(setting, logits, logits.shape[dim])


_wanted = os.environ.get(ENVIRONMENT, "")  # read once: asking the environment takes as long as checking a tensor
USUAL = ("", "compiled") if library.BUILT else ()  # wishes with which the usual call takes the compiled kernels


def allows_compiled() -> bool:
    """Whether compiled kernels may be used: they are built, and nobody asked for a slower path."""
    return _wanted in USUAL


def wanted() -> str:
    """The path asked for, empty if none was. Raises ValueError unless it is one of NAMES."""
    return _wanted if not _wanted or _wanted in NAMES else check_choice(ENVIRONMENT, _wanted, NAMES)


@contextmanager
def using(path: str) -> Iterator[None]:
    """Inside, this process takes `path` (compiled | triton | torch | naive) or a slower one; empty: the fastest."""
    global _wanted
    before, _wanted = _wanted, check_choice("path", path, NAMES) if path else ""
    try:
        yield
    finally:
        _wanted = before
