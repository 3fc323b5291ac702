"""Which path a call takes: the compiled kernels where they apply, else the naive twin. Decided per call."""

from __future__ import annotations

import os

import torch
from torch import Generator, Tensor
from torch.nn import Parameter

from catreparam.kernels import compiled, library
from catreparam.kernels.chain import SOLVERS
from catreparam.kernels.library import DTYPES, Setting
from catreparam.validation import check_choice, check_generator, check_logits, check_mask

ENVIRONMENT = "CATREPARAM_KERNELS"  # naive: never the compiled kernels; compiled: an error if they were not built


def sample(
    logits: Tensor, mask: Tensor | None, dim: int, generator: Generator | None, method: str, **setting: object
) -> Tensor | None:
    """The estimator's sample, in the layout of `logits`, from the compiled kernels; None where they do not apply.

    `setting` holds the fields of `library.Setting` (values checked by the caller, but for `solver`). Raises for bad
    logits, masks and generators what `catreparam.categorical.to_rows` raises.
    """
    if not applies(logits):
        return None
    if "solver" in setting:
        check_choice("solver", setting["solver"], SOLVERS)
    check_logits(logits, dim)
    check_generator(generator, logits.device)
    rows = logits
    if mask is not None:
        check_mask(mask, logits)
        rows = rows.masked_fill(~mask, -torch.inf)
    last = dim in (-1, rows.ndim - 1)
    rows = rows if last else rows.movedim(dim, -1)
    x = compiled.sample(Setting(method, **setting), rows, generator=generator)  # type: ignore[arg-type]
    return x if last else x.movedim(-1, dim)


def applies(logits: Tensor) -> bool:
    """Whether the compiled kernels take these logits."""
    return why_not(logits) == ""


def why_not(logits: Tensor) -> str:
    """Why the compiled kernels do not take these logits; empty if they do.

    Raises RuntimeError if the environment asks for them and they were not built.
    """
    wanted = os.environ.get(ENVIRONMENT, "")
    if wanted == "naive":
        return f"{ENVIRONMENT}=naive"
    if not library.BUILT:
        if wanted == "compiled":
            raise RuntimeError(f"{ENVIRONMENT}=compiled, but the kernels were not built; install with a C++ compiler")
        return "the kernels were not built"
    if type(logits) not in (Tensor, Parameter) and not compiled.is_traced():
        return f"a {type(logits).__name__} is no plain tensor"
    if logits.device.type != "cpu" or logits.layout != torch.strided:
        return f"{logits.layout} on {logits.device.type}"
    if logits.dtype not in DTYPES:
        return f"{logits.dtype} takes the naive path"
    if _forward_mode():
        return "forward-mode derivatives, and transforms inside torch.compile, take the naive path"
    return ""


def _forward_mode() -> bool:
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    if not torch._C._are_functorch_transforms_active():
        return False
    if torch.compiler.is_compiling():
        return True
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() == torch._C._functorch.TransformType.Jvp for level in stack)
