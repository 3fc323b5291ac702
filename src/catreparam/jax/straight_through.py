"""Straight-through for JAX."""

import jax
from jax import Array
from jaxtyping import Bool, Float

from catreparam.jax.categorical import Rows, attach_gradient, draw_one_hot, from_rows, to_rows


def straight_through(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws a one-hot x whose gradient is that of its mean, J(p) grad f(x): see `catreparam.straight_through`.

    Raises TypeError or ValueError for bad logits, masks and keys.

    >>> import jax, jax.numpy as jnp
    >>> straight_through(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    rows = to_rows(logits, mask, axis, key)
    probs = straight_through_surrogate(rows)
    return from_rows(attach_gradient(draw_one_hot(probs, key), probs), logits, axis)


def straight_through_surrogate(logits: Rows) -> Rows:
    """softmax(logits): its ordinary gradient is the estimator's. Deterministic; needs neither noise nor sample."""
    return jax.nn.softmax(logits, -1)
