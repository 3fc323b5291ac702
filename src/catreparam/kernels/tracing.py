"""What kind of call this is: eager, traced, in forward mode. And whether logits are plain."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn import Parameter
from torch.onnx import is_in_onnx_export
from torch.utils._python_dispatch import _disable_current_modes

from catreparam.validation import is_fx_tracing, is_jit_tracing, is_stand_in


def is_traced() -> bool:
    """Whether tensors may stand for others here: torch.compile, export, torch.func transforms, dispatch modes."""
    return is_compiling() or torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack() > 0


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


def is_batched(upstream: Tensor) -> bool:
    """Whether a gradient stands for a batch of them: is_grads_batched, jacobian(vectorize=True), vmap of backward."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return functorch.is_legacy_batchedtensor(upstream) or functorch.is_batchedtensor(upstream)


def why_not_plain(logits: Any) -> str:
    """Why only the naive path takes these logits, or says what is wrong with them; empty if others may take them."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.is_nested or logits.ndim == 0:
        return "no floating tensor with a class axis"
    if is_in_onnx_export() if is_compiling() else is_jit_tracing():
        return "torch.jit.trace and ONNX record torch's own operations: they take the naive path"
    if not is_compiling() and not is_fx_tracing() and is_stand_in(logits):
        return "meta and fake tensors take the naive path"
    if type(logits) not in (Tensor, Parameter) and not is_traced():
        return f"a {type(logits).__name__} is no plain tensor"
    if logits.layout != torch.strided:
        return f"{logits.layout} tensors take the naive path"
    if in_forward_mode():
        return "forward-mode derivatives, and transforms inside torch.compile, take the naive path"
    return ""


@contextmanager
def unrecorded() -> Iterator[None]:
    """Inside, no tracer and no dispatch mode sees what is done: for trials that are no part of the program."""
    record: Any = torch._C
    tracing = record._get_tracing_state()
    record._set_tracing_state(None)
    try:
        with _disable_current_modes():
            yield
    finally:
        record._set_tracing_state(tracing)


Function = TypeVar("Function", bound=Callable[..., Any])


def unscriptable(function: Function) -> Function:
    """The function itself, at which torch.jit.script says what to do instead."""
    setattr(function, "__prepare_scriptable__", refuse_script)  # noqa: B010
    return function


def refuse_script(*_: Any) -> NoReturn:
    """What torch.jit.script meets, as `__prepare_scriptable__`."""
    raise TypeError("torch.jit.script cannot compile catreparam; use torch.jit.trace, torch.compile or torch.export")
