"""Checks on what callers pass in: every message names the value and the remedy."""

import math
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.nn import Parameter

from catreparam import pending
from catreparam.pending import set_validation as set_validation
from catreparam.threads import PARTS, SERIAL

SMALLEST, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
USUAL = 1000.0  # logits up to here keep four digits of the noise that is added to them


def values_are_checked(tensor: Tensor) -> bool:
    """Whether the data-dependent checks run on `tensor`: they are on, and its values can be read or written down."""
    return pending.mode is not False and has_values(tensor)


def has_values(tensor: Tensor) -> bool:
    """Whether what is read of `tensor` now holds later: false while a program is recorded, and for stand-ins.

    Recorders: torch.compile, export, torch.jit.trace, make_fx. Stand-ins: meta and fake tensors, those of torch.func.
    """
    return not (torch.compiler.is_compiling() or inside_transform() or is_recorded() or is_stand_in(tensor))


def is_lost_fake(tensor: Tensor) -> bool:
    """Whether a tensor is fake and its mode, without which torch makes nothing beside it, is not active."""
    plain = type(tensor) in (Tensor, Parameter) or torch.compiler.is_compiling()
    return not plain and is_fake(tensor) and torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is None


def is_stand_in(tensor: Tensor) -> bool:
    """Whether a tensor has a shape and no values: on the meta device, or fake."""
    return tensor.is_meta or (type(tensor) not in (Tensor, Parameter) and is_fake(tensor))


def is_recorded() -> bool:
    """Whether torch.jit.trace or make_fx writes down torch's operations, and nothing of a custom backward pass."""
    return is_jit_tracing() or is_fx_tracing()


def is_exporting() -> bool:
    """Whether torch.export records, by running the code as it is."""
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def is_jit_tracing() -> bool:
    """Whether torch.jit.trace, or ONNX's exporter by it, records."""
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None


def is_fx_tracing() -> bool:
    """Whether make_fx records, and not for torch.compile or export."""
    proxy = torch._C._TorchDispatchModeKey.PROXY
    return not torch.compiler.is_compiling() and torch._C._get_dispatch_mode(proxy) is not None


def check_logits(logits: Any, dim: int = -1) -> None:
    """Raises TypeError or ValueError unless `logits` is a floating tensor with at least one class along `dim`."""
    if not isinstance(logits, Tensor):
        remedy = (
            "the objective comes first: (objective, logits)" if callable(logits) else "wrap it in torch.as_tensor(...)"
        )
        raise TypeError(f"logits must be a torch.Tensor, got {type(logits).__name__}; {remedy}")
    if not logits.is_floating_point():
        raise TypeError(f"logits must be a floating tensor, got {logits.dtype}; call logits.float()")
    if is_lost_fake(logits):
        raise ValueError("logits are fake and their mode is not active; call inside `with fake_mode:`")
    check_dense("logits", logits)
    if logits.ndim == 0:
        raise ValueError("logits must have a class axis, got a 0-dimensional tensor; pass shape [*batch, num_classes]")
    if not is_whole(dim):
        raise TypeError(f"dim must be an int, got {dim!r}")
    if not -logits.ndim <= dim < logits.ndim:
        raise ValueError(
            f"dim must lie in [{-logits.ndim}, {logits.ndim - 1}] for logits of {logits.ndim} axes, got {dim}"
        )
    if logits.shape[dim] == 0:
        raise ValueError(f"num_classes must be at least 1, got logits of shape {tuple(logits.shape)} with dim={dim}")


def check_dense(name: str, tensor: Tensor) -> None:
    """Raises TypeError for a nested or sparse tensor."""
    if tensor.is_nested:
        raise TypeError(
            f"{name} must be a plain tensor, got a nested one; pass its rows, {name}.values() of a jagged one or "
            f"torch.cat({name}.unbind()) of a strided one, or pad it"
        )
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}; pass {name}.to_dense()")


def check_features(name: str, features: Any, size: int, axis: int = -1) -> None:
    """Raises TypeError or ValueError unless `features` is a plain floating tensor with `size` entries along `axis`."""
    if not isinstance(features, Tensor) or not features.is_floating_point():
        found = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{name} must be a floating torch.Tensor, got {found}")
    check_dense(name, features)
    if features.ndim < -axis or features.shape[axis] != size:
        where = "" if axis == -1 else f" on axis {axis}"
        raise ValueError(f"{name} must have size {size}{where}, got shape {tuple(features.shape)}")


def check_mask(mask: Any, logits: Tensor, name: str = "mask") -> None:
    """Raises unless `mask` is a boolean tensor that broadcasts to the shape of `logits` (True = allowed)."""
    _check_boolean(mask, name, "allowed")
    try:
        fits = torch.broadcast_shapes(mask.shape, logits.shape) == logits.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} of shape {tuple(mask.shape)} does not broadcast to logits of shape {tuple(logits.shape)}; "
            "give it the shape of logits or size-1 axes"
        )


def check_counted(mask: Any, features: Tensor, name: str) -> None:
    """Raises unless `mask` is a boolean tensor with one value for each row of `features` [*batch, size]."""
    _check_boolean(mask, name, "counts")
    if mask.shape != features.shape[:-1]:
        raise ValueError(
            f"{name} must be boolean of shape {tuple(features.shape[:-1])}, one value a position, "
            f"got shape {tuple(mask.shape)}"
        )


def _check_boolean(mask: Any, name: str, meaning: str) -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} must be a boolean torch.Tensor (True = {meaning}), got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} must be boolean (True = {meaning}), got {mask.dtype}; compare it, e.g. {name} > 0")
    check_dense(name, mask)


def check_rows(logits: Tensor) -> bool:
    """Raises ValueError if a row (last axis) holds NaN or +inf or allows no class; on a CUDA device a later call does.

    Returns whether all logits are known to be of a size to which noise can be added.
    """
    if not values_are_checked(logits):
        return False
    if logits.numel() == 0:
        return True
    if pending.defers(logits.device):
        pending.note_rows(logits.detach().amax(-1))
        return False
    if _norm_is_small(logits.detach()):  # the usual case, at a tenth of the cost
        return True
    top = logits.detach().amax(-1)  # [*batch]: NaN spreads, +inf wins, -inf means that nothing is allowed
    if bool(torch.isfinite(top).all()):
        return False
    if bool(torch.isnan(top).any()):
        raise ValueError(pending.ROWS[pending.NAN].format(f"{int(torch.isnan(logits).sum())} "))
    if bool((top == math.inf).any()):
        raise ValueError(pending.ROWS[pending.INFINITE].format(""))
    raise ValueError(pending.ROWS[pending.EMPTY].format(f"{int((top == -math.inf).sum())} "))


def demand(values: Tensor, holds: Callable[[Tensor], Tensor], message: str) -> None:
    """Raises ValueError unless `holds(values)` is True everywhere; of values on a CUDA device a later call does."""
    if not values_are_checked(values):
        return
    held = holds(values.detach()).all()
    if pending.defers(values.device):
        pending.note(~held, message)
    elif not bool(held):
        raise ValueError(message)


def _norm_is_small(logits: Tensor) -> bool:
    """Whether no value is beyond USUAL; of up to PARTS times SERIAL in parts, which wakes no thread."""
    if SERIAL < logits.numel() <= PARTS * SERIAL and logits.is_cpu and logits.is_contiguous():
        return all(float(torch.linalg.vector_norm(part)) <= USUAL for part in logits.view(-1).split(SERIAL))
    return float(torch.linalg.vector_norm(logits)) <= USUAL


def inside_transform() -> bool:
    """Whether the caller runs under torch.func.grad, torch.vmap or the like, where no value can be read."""
    return torch._C._are_functorch_transforms_active()


def check_generator(generator: Any, device: torch.device) -> None:
    """Raises unless `generator` is None or a torch.Generator of the device type of the logits.

    Nothing is drawn on the meta device: any generator is accepted there.
    """
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    if is_fx_tracing() and torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
        raise ValueError("make_fx cannot record a generator with fake tensors; leave it out and use torch.manual_seed")
    if device.type not in ("meta", generator.device.type):
        raise ValueError(
            f"generator lives on {generator.device} but logits on {device}; use torch.Generator(device='{device.type}')"
        )


def is_whole(value: Any) -> bool:
    """Whether a value is an int, NumPy's too."""
    if isinstance(value, int):  # apart from Integral, which torch.compile cannot ask for
        return not isinstance(value, bool)
    return isinstance(value, Integral)


LARGEST_COUNT = 2**53  # as far as sizes, steps and floats agree


def check_count(name: str, value: Any, minimum: int = 1) -> int:
    """Returns `value` as an int if it is a whole number, NumPy's too, of at least `minimum`."""
    if not is_whole(value):
        raise TypeError(f"{name} must be an int, got {value!r}")
    value = value if type(value) is int else int(value)
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if value > LARGEST_COUNT:
        raise ValueError(f"{name} must be at most {LARGEST_COUNT}, got {value}")
    return value


def check_number(
    name: str, value: Any, *, above: float = -math.inf, least: float = -math.inf, most: float = math.inf
) -> float:
    """Returns `value` as a float if it is a finite real number with above < value, least <= value <= most.

    NumPy's numbers are numbers, and so is a tensor of one value on the CPU that asks for no gradient. Kernels compute
    in float32: a number beyond its range, or positive by demand and below its normal range, is refused.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        value = _number_of(name, value)
    finite = -math.inf < value < math.inf  # in comparisons that torch.compile can trace for a value that changes
    if not finite or not value > above or not least <= value <= most:
        wanted = wanted_range(above, least, most)
        also = " and finite" if value == most == math.inf and wanted != "finite" else ""
        raise ValueError(f"{name} must be {wanted}{also}, got {value}")
    if (above == 0.0 and value < SMALLEST) or not -LARGEST <= value <= LARGEST:
        raise ValueError(
            f"{name} must lie within the range of float32, of size {SMALLEST:.3g} to {LARGEST:.3g}, got {value}; "
            "let a schedule end at a bound of its own"
        )
    return float(value)


def wanted_range(above: float, least: float, most: float) -> str:
    """What `check_number` wants of a number, in words."""
    low = f"greater than {above:g}" if above > -math.inf else f"at least {least:g}" if least > -math.inf else ""
    high = f"at most {most:g}" if most < math.inf else ""
    return " and ".join(part for part in (low, high) if part) or "finite"


def _number_of(name: str, value: Any) -> float:
    if isinstance(value, Tensor):
        if not is_number(value):
            raise TypeError(f"{name} must be one number, got a tensor of shape {tuple(value.shape)}; pass its .item()")
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    return float(value)


def is_number(value: Tensor) -> bool:
    """Whether a tensor is as good as a number: one value at hand, of which nothing asks for a gradient or a record."""
    followed = value.requires_grad and torch.is_grad_enabled()
    return value.ndim == 0 and value.is_cpu and not followed and has_values(value)


def check_flag(name: str, value: Any) -> bool:
    """Returns `value` as a bool if it is True or False, NumPy's too, or 1 or 0."""
    if isinstance(value, bool):
        return value
    if (type(value).__name__ in ("bool", "bool_") or isinstance(value, Integral)) and value in (0, 1):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of `choices`; the error names them and the nearest."""
    choices = sorted(choices)
    if value in choices:
        return value
    near = get_close_matches(str(value), choices, n=1) or get_close_matches(str(value).lower(), choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {name} {value!r}.{hint} Choose from: {', '.join(choices)}.")
