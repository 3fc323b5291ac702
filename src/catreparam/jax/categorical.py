"""Rows in and out, noise, exact draws, attached gradients: the twin of `catreparam.categorical` for JAX."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jaxtyping import Float

from catreparam.jax.validation import check_key, check_logits, check_mask, check_rows

TAIL = 2.0**-12  # below, an exponential is drawn anew
VANISHED = -1000.0  # whose exponential is 0: there 0 * inf would be the gradient to a temperature
FORBIDDEN = -1e20  # below the largest logit: a mask, whose class no temperature brings back
Rows = Float[Array, "*batch num_classes"]
BroadcastRows = Float[Array, "... num_classes"]  # rows that broadcast against each other, several noises a row say


def to_rows(logits: Any, mask: Any, axis: int, key: Any) -> Rows:
    """Checks the input and returns logits with classes last, in float32 or wider, forbidden classes at -inf."""
    array = check_logits(logits, axis)
    check_key(key)
    rows = array if array.dtype in (jnp.float32, jnp.float64) else array.astype(jnp.float32)
    if mask is not None:
        rows = jnp.where(check_mask(mask, array), rows, -jnp.inf)
    rows = jnp.moveaxis(rows, axis, -1)
    check_rows(rows)
    return centred(rows)


def from_rows(x: Array, logits: Array, axis: int) -> Array:
    """Undoes `to_rows`: the layout and dtype of `logits` for an array with classes last."""
    return jnp.moveaxis(x, -1, axis).astype(logits.dtype)


def attach_gradient(x: Rows, surrogate: Rows) -> Rows:
    """The value of x, exactly, with the gradient of the surrogate.

    >>> f = lambda p: attach_gradient(jnp.array([0.0, 1.0]), p) @ jnp.array([3.0, 5.0])
    >>> jax.grad(f)(jnp.array([0.2, 0.8])).tolist()
    [3.0, 5.0]
    """
    return stop_gradient(x) + (surrogate - stop_gradient(surrogate))


def draw_exponential_like(rows: Array, key: Array, shape: tuple[int, ...] | None = None) -> Array:
    """Exponential(1) noise, never zero, to full relative precision near 0, where rare classes are decided."""
    noise = jax.random.exponential(key, rows.shape if shape is None else shape, rows.dtype)
    rare = noise < TAIL  # jax's are multiples of 2^-23, 0 among them
    return jax.lax.cond(rare.any(), _finer, lambda noise, key: noise, noise, jax.random.fold_in(key, 1))


def _finer(noise: Array, key: Array) -> Array:
    """The noise below TAIL drawn anew: it is uniform there, but for the slope of exp(-noise)."""
    high, low = jax.random.bits(key, (2, *noise.shape), jnp.uint32).astype(noise.dtype)
    uniform = (high + (low + 0.5) * 2.0**-32) * 2.0**-32
    return jnp.where(noise < TAIL, -jnp.log1p(uniform * math.expm1(-TAIL)), noise)


def centred(rows: Rows) -> Rows:
    """Logits with the largest of every row at 0, and masks written as the least float at -inf, as other masks are.

    Noise added to logits of 1e30 would be lost, and products with them overflow.
    """
    rows = rows - stop_gradient(rows).max(-1, keepdims=True)
    return jnp.where(rows < FORBIDDEN, -jnp.inf, rows)


def softmax_at(rows: Rows, temperature: float | Array) -> Rows:
    """softmax(rows / temperature): what is divided is at most 0, so that no temperature is too low."""
    rows = rows - stop_gradient(rows).max(-1, keepdims=True)
    if not isinstance(temperature, Array):
        return jax.nn.softmax(rows / temperature, -1)
    gone = stop_gradient(rows / temperature) < VANISHED
    return jax.nn.softmax(jnp.where(gone, -jnp.inf, jnp.where(gone, 0.0, rows) / temperature), -1)


def draw_normal_like(rows: Array, key: Array, shape: tuple[int, ...] | None = None) -> Array:
    """Standard normal noise."""
    return jax.random.normal(key, rows.shape if shape is None else shape, rows.dtype)


def draw_one_hot(probs: Rows, key: Array) -> Rows:
    """An exact one-hot draw for every row of probabilities (which need not be normalised). No gradient.

    >>> draw_one_hot(jnp.array([[0.0, 1.0, 0.0]]), jax.random.key(0)).tolist()
    [[0.0, 1.0, 0.0]]
    """
    probs = stop_gradient(probs)
    return one_hot_like((probs / draw_exponential_like(probs, key)).argmax(-1), probs)


def one_hot_like(index: Array, rows: Array) -> Array:
    """One-hot rows with the classes and dtype of `rows` from class indices [*batch]."""
    return jax.nn.one_hot(index, rows.shape[-1], dtype=rows.dtype)


def finite(logits: Rows) -> Rows:
    """Logits with -inf replaced by 0, for products with weights that are zero there (0 * -inf would be NaN)."""
    return jnp.where(logits == -jnp.inf, 0.0, logits)


def tangent(logits: Rows) -> Rows:
    """Zero, with the gradient of the logits: for products of which only the gradient is wanted."""
    return finite(logits) - stop_gradient(finite(logits))


def covariance_product(probs: BroadcastRows, vector: BroadcastRows) -> BroadcastRows:
    """J(p) u = p * (u - <p, u>): the covariance of a one-hot draw, applied to u in O(num_classes)."""
    return probs * (vector - (probs * vector).sum(-1, keepdims=True))


def second_order(
    probs: BroadcastRows, vector: BroadcastRows, x: BroadcastRows, weight: float | Array = 1.0
) -> BroadcastRows:
    """(1 - w/2) J(p) u + (w/2) d <d, u> with d = x - p: between population (w = 0) and ReinMax's covariance (w = 1)."""
    d = x - probs
    one_sample = d * (d * vector).sum(-1, keepdims=True)
    return (1 - weight / 2) * covariance_product(probs, vector) + (weight / 2) * one_sample
