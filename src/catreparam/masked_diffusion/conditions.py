"""A condition on its way: which entries the model and the reward take, and which have a row for every sequence."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor, nn

Condition = Mapping[str, Any]
"""Keyword arguments of a denoiser and of a reward, by name: class labels, targets, …"""


def names_of(function: Callable[..., Any]) -> frozenset[str] | None:
    """The keyword arguments that a function takes beside its first one; None: any (it has **keywords, or says nothing).

    >>> sorted(names_of(lambda tokens, label, scale=1.0: tokens))
    ['label', 'scale']
    """
    function = inspect.unwrap(function)
    try:
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
    except (TypeError, ValueError):
        return None
    kinds = inspect.Parameter
    if any(parameter.kind == kinds.VAR_KEYWORD for parameter in parameters.values()):
        return None
    named = [
        p.name for p in list(parameters.values())[1:] if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    ]
    return frozenset(named)


def entries_for(function: Callable[..., Any], condition: Condition) -> dict[str, Any]:
    """The entries of a condition that a function takes."""
    names = names_of(function)
    return {key: value for key, value in condition.items() if names is None or key in names}


def check_condition(condition: Condition, *functions: Callable[..., Any]) -> None:
    """Raises TypeError for an entry that none of the functions takes."""
    taken = [names_of(function) for function in functions]
    for key in condition:
        if all(names is not None and key not in names for names in taken):
            known = ", ".join(sorted(frozenset().union(*(names for names in taken if names)))) or "no entries"
            raise TypeError(f"neither the denoiser nor the reward takes the condition {key!r}; they take {known}")


def per_sequence_entries(condition: Condition, batch: int, named: Collection[str] | None) -> frozenset[str]:
    """The entries with a row for each of the `batch` sequences, by the caller's word where it was given.

    Without it, entries of another size are shared. Raises ValueError for entries that may be either, and for named
    entries that are missing or of another size.
    """
    if named is None:
        fitting = frozenset(key for key, value in condition.items() if _rows(value) == batch)
        if fitting and batch > 1:
            names = tuple(sorted(fitting))
            raise ValueError(
                f"the condition's {', '.join(names)} may have a row for each of {batch} sequences, or belong to all; "
                f"say which have rows: per_sequence={names!r}, or () for none"
            )
        return fitting
    if isinstance(named, str):
        raise TypeError(f"per_sequence must be a tuple of names, got {named!r}; write ({named!r},)")
    for key in named:
        if key not in condition:
            raise ValueError(f"per_sequence names {key!r}, which the condition lacks; it has {', '.join(condition)}")
        if _rows(condition[key]) != batch:
            raise ValueError(
                f"condition {key!r} must have a row for each of {batch} sequences, got {_rows(condition[key])}"
            )
    return frozenset(named)


def picked(value: Any, index: list[int]) -> Any:
    """The rows of a tensor, list or tuple at an index, in its order."""
    return value[index] if isinstance(value, Tensor) else [value[row] for row in index]


def _rows(value: Any) -> int | None:
    if isinstance(value, Tensor):
        return value.shape[0] if value.ndim else None
    return len(value) if isinstance(value, (list, tuple)) else None
