"""Deep copies of distributions, which keep what their class logits are made of: a function and its arguments."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import Size, Tensor

Made = tuple[Callable[..., Tensor], tuple[Any, ...]]


def expanded(made: Made, shape: Size) -> Tensor:
    """What was made, made again and expanded to `shape`."""
    function, arguments = made
    return function(*arguments).expand(shape)


def copied(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy, but for tensors that are computed from others."""
    if isinstance(value, Tensor) and not value.is_leaf:
        return value
    if type(value) in (tuple, dict):
        items = value.items() if isinstance(value, dict) else value
        return type(value)(copied(item, memo) for item in items)
    return deepcopy(value, memo)
