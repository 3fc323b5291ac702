"""Optimisation under torch.inference_mode: it needs gradients, which that mode refuses to its tensors for ever."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

P = ParamSpec("P")
R = TypeVar("R")


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """The function, called outside of inference mode, with copies of tensors that were made inside it.

    What the reward itself keeps from inside (weights, targets) stays the caller's: torch names inference mode then.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False):
            return functools.partial(function, *tree_map(_usable, args), **tree_map(_usable, kwargs))()

    return called


def _usable(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
