"""Checks on what callers of the JAX estimators pass in: every message names the value and the remedy."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from catreparam.validation import is_whole


def check_logits(logits: Any, axis: int) -> Array:
    """The logits as an array; TypeError or ValueError unless floating, with at least one class along `axis`."""
    if isinstance(logits, (list, tuple)) or not hasattr(logits, "dtype") or type(logits).__module__ == "torch":
        raise TypeError(f"logits must be a jax.Array, got {type(logits).__name__}; wrap it in jnp.asarray(...)")
    array = jnp.asarray(logits)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"logits must be a floating array, got {array.dtype}; call logits.astype(jnp.float32)")
    if array.ndim == 0:
        raise ValueError("logits must have a class axis, got a 0-dimensional array; pass shape [*batch, num_classes]")
    if not is_whole(axis):
        raise TypeError(f"axis must be an int, got {axis!r}")
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(
            f"axis must lie in [{-array.ndim}, {array.ndim - 1}] for logits of {array.ndim} axes, got {axis}"
        )
    if array.shape[axis] == 0:
        raise ValueError(f"num_classes must be at least 1, got logits of shape {array.shape} with axis={axis}")
    return array


def check_mask(mask: Any, logits: Array) -> Array:
    """The mask as an array; raises unless it is boolean and broadcasts to the shape of `logits` (True = allowed)."""
    if not hasattr(mask, "dtype") or type(mask).__module__ == "torch":
        raise TypeError(f"mask must be a boolean jax.Array (True = allowed), got {type(mask).__name__}")
    array = jnp.asarray(mask)
    if array.dtype != jnp.bool_:
        raise TypeError(f"mask must be boolean (True = allowed), got {array.dtype}; compare it, e.g. mask > 0")
    try:
        fits = jnp.broadcast_shapes(array.shape, logits.shape) == logits.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"mask of shape {array.shape} does not broadcast to logits of shape {logits.shape}; "
            "give it the shape of logits or size-1 axes"
        )
    return array


def check_rows(rows: Array) -> None:
    """ValueError if a row (last axis) holds NaN or +inf or allows no class. Traced values cannot be read: no check."""
    if isinstance(rows, Tracer) or rows.size == 0:
        return
    top = rows.max(-1)  # [*batch]: NaN spreads, +inf wins, -inf means that nothing is allowed
    if bool(jnp.isfinite(top).all()):
        return
    if bool(jnp.isnan(top).any()):
        raise ValueError(f"logits hold {int(jnp.isnan(rows).sum())} NaN; find the operation that made them")
    if bool((top == jnp.inf).any()):
        raise ValueError("logits hold +inf; only finite values and -inf (impossible class) are legal")
    count = int((top == -jnp.inf).sum())
    raise ValueError(f"{count} row(s) of logits allow no class (all -inf or masked); leave at least one class allowed")


def check_key(key: Any) -> None:
    """TypeError unless `key` is a JAX random key (new style or a raw uint32 pair)."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jax.dtypes.prng_key) or dtype == jnp.uint32):
        raise TypeError(f"key must be a JAX random key, got {key!r}; use jax.random.key(0)")
