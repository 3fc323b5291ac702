"""Estimators for JAX that need no diffusion: straight-through, ReinMax, Gumbel-Softmax and Gumbel-Rao."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jaxtyping import Bool, Float

from catreparam.jax.categorical import (
    Rows,
    attach_gradient,
    covariance_product,
    draw_exponential_like,
    draw_one_hot,
    from_rows,
    one_hot_like,
    second_order,
    softmax_at,
    tangent,
    to_rows,
)
from catreparam.jax.hyperparameters import check_hyperparameter, estimator, for_rows
from catreparam.validation import check_count, check_flag


@estimator
def straight_through(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws a one-hot x whose gradient is that of its mean, J(p) grad f(x): see `catreparam.straight_through`.

    Raises TypeError or ValueError for bad logits, masks and keys.

    >>> straight_through(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    rows = to_rows(logits, mask, axis, key)
    probs = straight_through_surrogate(rows)
    return from_rows(attach_gradient(draw_one_hot(probs, key), probs), logits, axis)


def straight_through_surrogate(logits: Rows) -> Rows:
    """softmax(logits): its ordinary gradient is the estimator's. Deterministic; needs neither noise nor sample."""
    return jax.nn.softmax(logits, -1)


@estimator
def reinmax(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    temperature: float | Array = 1.0,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws a one-hot x whose gradient is second-order accurate in the objective: see `catreparam.reinmax`.

    Raises ValueError unless temperature > 0; TypeError or ValueError for bad logits, masks and keys.

    >>> reinmax(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    rows = to_rows(logits, mask, axis, key)
    temperature = for_rows("temperature", _check_temperature(temperature, "reinmax"), rows, axis)
    x = draw_one_hot(jax.nn.softmax(rows, -1), key)
    return from_rows(attach_gradient(x, reinmax_surrogate(rows, x=x, temperature=temperature)), logits, axis)


def reinmax_surrogate(logits: Rows, *, x: Rows, temperature: float | Array = 1.0) -> Rows:
    """An array with ReinMax's gradient for the hard sample x [*batch, num_classes]. Its value means nothing."""
    temperature = _check_temperature(temperature, "reinmax")
    middle = (softmax_at(stop_gradient(logits), temperature) + stop_gradient(x)) / 2
    return 2 * covariance_product(middle, tangent(logits)) - jax.nn.softmax(logits, -1) / 2


@estimator
def lambda_reinmax(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    weight: float | Array = 0.75,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws x; its gradient lies between straight-through (weight 0) and ReinMax (1): see `catreparam.lambda_reinmax`.

    Raises ValueError unless weight lies in [0, 2]; TypeError or ValueError for bad logits, masks and keys.

    >>> lambda_reinmax(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    rows = to_rows(logits, mask, axis, key)
    weight = for_rows("weight", _check_weight(weight), rows, axis)
    x = draw_one_hot(jax.nn.softmax(rows, -1), key)
    return from_rows(attach_gradient(x, lambda_reinmax_surrogate(rows, x=x, weight=weight)), logits, axis)


def lambda_reinmax_surrogate(logits: Rows, *, x: Rows, weight: float | Array = 0.75) -> Rows:
    """An array whose ordinary gradient is lambda-ReinMax's for the hard sample x. Its value means nothing."""
    weight = _check_weight(weight)
    return second_order(jax.nn.softmax(stop_gradient(logits), -1), tangent(logits), stop_gradient(x), weight)


@estimator
def gumbel_softmax(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    temperature: float | Array = 1.0,
    hard: bool = True,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws a one-hot x (hard=False: a relaxed one) by the Gumbel-max trick: see `catreparam.gumbel_softmax`.

    Raises ValueError unless temperature > 0; TypeError or ValueError for bad logits, masks and keys.

    >>> gumbel_softmax(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    check_flag("hard", hard)
    rows = to_rows(logits, mask, axis, key)
    temperature = for_rows("temperature", _check_temperature(temperature), rows, axis)
    noise = -jnp.log(draw_exponential_like(rows, key))
    x_soft = gumbel_softmax_surrogate(rows, noise=noise, temperature=temperature)
    x = attach_gradient(one_hot_like((rows + noise).argmax(-1), rows), x_soft) if hard else x_soft
    return from_rows(x, logits, axis)


def gumbel_softmax_surrogate(logits: Rows, *, noise: Rows, temperature: float | Array = 1.0) -> Rows:
    """The relaxed sample softmax((logits + noise) / temperature) for standard Gumbel noise [*batch, num_classes]."""
    temperature = _check_temperature(temperature)
    return softmax_at(logits + noise, temperature)


@estimator
def gumbel_rao(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    temperature: float | Array = 0.5,
    num_noises: int = 10,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws x first, then averages the Gumbel-Softmax gradient over Gumbels given x: see `catreparam.gumbel_rao`.

    Raises ValueError unless temperature > 0 and num_noises >= 1; TypeError or ValueError for bad input.

    >>> gumbel_rao(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    num_noises = check_count("num_noises", num_noises)
    rows = to_rows(logits, mask, axis, key)
    temperature = for_rows("temperature", _check_temperature(temperature), rows, axis)
    key_x, key_noise = jax.random.split(key)
    x = draw_one_hot(jax.nn.softmax(rows, -1), key_x)
    noise = draw_exponential_like(rows, key_noise, (num_noises, *rows.shape))
    surrogate = gumbel_rao_surrogate(rows, noise=noise, x=x, temperature=temperature)
    return from_rows(attach_gradient(x, surrogate), logits, axis)


def gumbel_rao_surrogate(logits: Rows, *, noise: Array, x: Rows, temperature: float | Array = 0.5) -> Rows:
    """Mean over conditional Gumbels of their softmax at `temperature`, given the hard sample x.

    `noise` holds Exponential(1) values [num_noises, *batch, num_classes]. Each Gumbel is a constant: the gradient
    is that of softmax((logits + constant) / temperature).
    """
    temperature = _check_temperature(temperature)
    perturbed = _conditional_gumbel(jax.nn.log_softmax(stop_gradient(logits), -1), x, noise)
    return softmax_at(perturbed + tangent(logits), temperature).mean(0)


def _check_temperature(temperature: Any, without_gradient: str = "") -> float | Array:
    return check_hyperparameter("temperature", temperature, above=0.0, without_gradient=without_gradient)


def _check_weight(weight: Any) -> float | Array:
    return check_hyperparameter("weight", weight, least=0.0, most=2.0, without_gradient="lambda_reinmax")


def _conditional_gumbel(log_probs: Rows, x: Rows, exponentials: Array) -> Array:
    """Perturbed log-probabilities given that x is their argmax: -log E_x on top, -log(E_k / p_k + E_x) elsewhere."""
    impossible = log_probs == -jnp.inf
    log_noise = jnp.log(exponentials)
    log_top = (x * log_noise).sum(-1, keepdims=True)
    below = -jnp.logaddexp(log_noise - jnp.where(impossible, 0.0, log_probs), log_top)
    return jnp.where(impossible, -jnp.inf, jnp.where(x > 0, -log_noise, below))
