"""What kind of call this is: eager, traced, or one that asks for forward-mode derivatives. And whether logits are plain."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn import Parameter


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


def why_not_plain(logits: Any) -> str:
    """Why only the naive path takes these logits, or says what is wrong with them; empty if others may take them."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim == 0:
        return "no floating tensor with a class axis"
    if type(logits) not in (Tensor, Parameter) and not is_traced():
        return f"a {type(logits).__name__} is no plain tensor"
    if logits.layout != torch.strided:
        return f"{logits.layout} tensors take the naive path"
    if in_forward_mode():
        return "forward-mode derivatives, and transforms inside torch.compile, take the naive path"
    return ""
