"""ReinMax and lambda-ReinMax for JAX."""

import jax
from jax import Array
from jax.lax import stop_gradient
from jaxtyping import Bool, Float

from catreparam.jax.categorical import (
    Rows,
    attach_gradient,
    covariance_product,
    draw_one_hot,
    finite,
    from_rows,
    second_order,
    to_rows,
)
from catreparam.validation import check_number


def reinmax(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    temperature: float = 1.0,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws a one-hot x whose gradient is second-order accurate in the objective: see `catreparam.reinmax`.

    Raises ValueError unless temperature > 0; TypeError or ValueError for bad logits, masks and keys.

    >>> import jax, jax.numpy as jnp
    >>> reinmax(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    rows = to_rows(logits, mask, axis, key)
    x = draw_one_hot(jax.nn.softmax(rows, -1), key)
    return from_rows(attach_gradient(x, reinmax_surrogate(rows, x=x, temperature=temperature)), logits, axis)


def reinmax_surrogate(logits: Rows, *, x: Rows, temperature: float = 1.0) -> Rows:
    """An array whose ordinary gradient is ReinMax's for the hard sample x [*batch, num_classes]. Its value means nothing."""
    temperature = check_number("temperature", temperature, above=0.0)
    middle = (jax.nn.softmax(stop_gradient(logits) / temperature, -1) + stop_gradient(x)) / 2
    return 2 * covariance_product(middle, finite(logits)) - jax.nn.softmax(logits, -1) / 2


def lambda_reinmax(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    weight: float = 0.75,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws x; its gradient lies between straight-through (weight 0) and ReinMax (1): see `catreparam.lambda_reinmax`.

    Raises ValueError unless weight lies in [0, 2]; TypeError or ValueError for bad logits, masks and keys.

    >>> import jax, jax.numpy as jnp
    >>> lambda_reinmax(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    rows = to_rows(logits, mask, axis, key)
    x = draw_one_hot(jax.nn.softmax(rows, -1), key)
    return from_rows(attach_gradient(x, lambda_reinmax_surrogate(rows, x=x, weight=weight)), logits, axis)


def lambda_reinmax_surrogate(logits: Rows, *, x: Rows, weight: float = 0.75) -> Rows:
    """An array whose ordinary gradient is lambda-ReinMax's for the hard sample x. Its value means nothing."""
    weight = check_number("weight", weight, least=0.0, most=2.0)
    return second_order(jax.nn.softmax(stop_gradient(logits), -1), finite(logits), stop_gradient(x), weight)
