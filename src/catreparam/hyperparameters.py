"""Hyperparameters that may be numbers or tensors: one value for all rows, one for each, learned ones too."""

import math
from typing import Any

import torch
from torch import Tensor

from catreparam.pending import defers
from catreparam.validation import LARGEST, SMALLEST, check_number, demand, is_number, values_are_checked, wanted_range


def check_hyperparameter(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    without_gradient: str = "",
) -> float | Tensor:
    """As `check_number`, but a tensor of several values, or one that asks for a gradient, stays a tensor.

    `without_gradient`: the estimator that has none to give it; a tensor that asks for one is then a ValueError. The
    values of a tensor are looked at where those of logits are: not inside transforms, nor with `set_validation(False)`;
    those on a CUDA device become NaN where they are not allowed, and a later call raises.
    """
    if type(value).__name__ in ("list", "tuple", "ndarray"):
        found = type(value).__name__
        raise TypeError(f"{name} must be a number or a tensor, got {found}; use torch.as_tensor({name})")
    if not isinstance(value, Tensor) or is_number(value):
        return check_number(name, value, above=above, least=least, most=most)
    _check_real(name, value)
    if without_gradient and value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{without_gradient} gives {name} no gradient; pass {name}.detach()")
    if values_are_checked(value) and value.numel():
        if defers(value.device):
            return _or_nan(name, value, above, least, most)
        for bound in value.detach().aminmax():  # a NaN is both
            check_number(name, bound.item(), above=above, least=least, most=most)
    return value


def _or_nan(name: str, value: Tensor, above: float, least: float, most: float) -> Tensor:
    """The values that are allowed, and NaN for others, of which a later call tells."""

    def allowed(values: Tensor) -> Tensor:
        low, high = max(least, -LARGEST), min(most, LARGEST)
        return (values > above) & (values >= (max(low, SMALLEST) if above == 0.0 else low)) & (values <= high)

    demand(value, allowed, f"{name} must be {wanted_range(above, least, most)} and within the range of float32")
    return torch.where(allowed(value.detach()), value, torch.nan)


def for_rows(name: str, value: Any, rows: Tensor, dim: int = -1) -> Any:
    """A hyperparameter as `rows` [*batch, num_classes] need it: what was given for logits with classes along `dim`.

    Raises ValueError for a tensor that holds neither one value nor one for every row, with an axis of size 1 for the
    classes.
    """
    if not isinstance(value, Tensor):
        return value
    _check_real(name, value)
    if value.device != rows.device and (value.ndim > 0 or not value.is_cpu):
        raise ValueError(f"{name} lives on {value.device} but logits on {rows.device}; use {name}.to(logits.device)")
    if value.ndim > 0:
        wanted = list(rows.movedim(-1, dim).shape)
        wanted[dim] = 1
        try:
            value = value.expand(wanted).movedim(dim, -1)
        except RuntimeError:
            raise ValueError(
                f"{name} of shape {tuple(value.shape)} must broadcast to {tuple(wanted)}: one value for every row, and "
                "an axis of size 1 for the classes"
            ) from None
    return value.to(rows.dtype)


def _check_real(name: str, value: Tensor) -> None:
    if value.is_complex() or value.dtype == torch.bool or value.is_nested or value.layout != torch.strided:
        found = value.dtype if value.layout == torch.strided else value.layout
        raise TypeError(f"{name} must be a number or a plain tensor of real numbers, got {found}")
