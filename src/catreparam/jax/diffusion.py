"""ReDGE for JAX: plain, covariance-matched, with ReinMax's rule (ReinDGE), and with the exact law.

The solvers and the sweep are those of torch's naive path: they only add and multiply.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jaxtyping import Bool, Float

from catreparam.jax.categorical import (
    BroadcastRows,
    Rows,
    attach_gradient,
    covariance_product,
    draw_normal_like,
    draw_one_hot,
    from_rows,
    second_order,
    tangent,
    to_rows,
)
from catreparam.jax.hyperparameters import (
    check_hyperparameter,
    check_t1,
    estimator,
    for_rows,
    make_schedule,
    schedule_for_rows,
)
from catreparam.kernels.naive.chain import solve
from catreparam.kernels.naive.exact_law import sweep
from catreparam.noise_schedule import NoiseSchedule
from catreparam.validation import check_count, check_flag


@estimator
def redge(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    num_steps: int = 4,
    t1: float | Array = 0.5,
    grid: str = "alpha",
    solver: str = "euler",
    hard: bool = True,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws a one-hot x whose gradient flows back through a diffusion sampler: see `catreparam.redge`.

    Raises ValueError for num_steps < 1, t1 outside [1e-4, 1], unknown grid or solver; TypeError or ValueError for
    bad input.

    >>> redge(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    check_flag("hard", hard)
    schedule = make_schedule(grid, num_steps, t1)
    rows = to_rows(logits, mask, axis, key)
    schedule = schedule_for_rows(schedule, rows, axis)
    key_noise, key_x = jax.random.split(key)
    x_soft = redge_surrogate(rows, noise=draw_normal_like(rows, key_noise), schedule=schedule, solver=solver)
    return from_rows(attach_gradient(draw_one_hot(x_soft, key_x), x_soft) if hard else x_soft, logits, axis)


def redge_surrogate(
    logits: Rows, *, noise: Rows, x: Rows | None = None, schedule: NoiseSchedule, solver: str = "euler"
) -> Rows:
    """The relaxed sample x0_hat for standard normal noise [*batch, num_classes]; x is accepted and not needed."""
    z = solve(lambda z, lam: denoise(z, logits, lam), noise, schedule, solver)
    return denoise(z, logits, schedule.last)


@estimator
def redge_cov(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    num_steps: int = 4,
    t1: float | Array = 0.5,
    grid: str = "alpha",
    solver: str = "euler",
    hard: bool = True,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """ReDGE whose diffusion ends in a Gaussian with the mean and variances of x: see `catreparam.redge_cov`.

    Raises ValueError for num_steps < 1, t1 outside [1e-4, 1], unknown grid or solver; TypeError or ValueError for
    bad input.

    >>> redge_cov(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    check_flag("hard", hard)
    schedule = make_schedule(grid, num_steps, t1)
    rows = to_rows(logits, mask, axis, key)
    schedule = schedule_for_rows(schedule, rows, axis)
    key_noise, key_x = jax.random.split(key)
    x_soft = redge_cov_surrogate(rows, noise=draw_normal_like(rows, key_noise), schedule=schedule, solver=solver)
    return from_rows(attach_gradient(draw_one_hot(x_soft, key_x), x_soft) if hard else x_soft, logits, axis)


def redge_cov_surrogate(
    logits: Rows, *, noise: Rows, x: Rows | None = None, schedule: NoiseSchedule, solver: str = "euler"
) -> Rows:
    """The relaxed sample for standard normal noise [*batch, num_classes]; x is accepted and not needed."""
    mean = jax.nn.softmax(logits, -1)
    spread = mean * (1 - mean)
    variance = jnp.where(spread >= 0.1, spread, 0.1)

    def denoise_matched(z: Array, lam: Any) -> Array:
        return jax.nn.softmax(logits + (lam * (z - mean) - lam**2 / 2) / variance, -1)

    z = solve(denoise_matched, mean + jnp.sqrt(variance) * noise, schedule, solver)
    return denoise_matched(z, schedule.last)


@estimator
def reindge(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    num_steps: int = 4,
    t1: float | Array = 0.5,
    grid: str = "alpha",
    solver: str = "euler",
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws x by ReDGE; the direct dependence at the last step uses ReinMax's Jacobian: see `catreparam.reindge`.

    Raises ValueError for num_steps < 1, t1 outside [1e-4, 1], unknown grid or solver; TypeError or ValueError for
    bad input.

    >>> reindge(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    schedule = make_schedule(grid, num_steps, check_t1(t1, "reindge"))
    rows = to_rows(logits, mask, axis, key)
    schedule = schedule_for_rows(schedule, rows, axis)
    key_noise, key_x = jax.random.split(key)
    z = solve(lambda z, lam: denoise(z, rows, lam), draw_normal_like(rows, key_noise), schedule, solver)
    x = draw_one_hot(denoise(z, rows, schedule.last), key_x)
    return from_rows(attach_gradient(x, _reindge_at(rows, z, x, schedule.last)), logits, axis)


def reindge_surrogate(logits: Rows, *, noise: Rows, x: Rows, schedule: NoiseSchedule, solver: str = "euler") -> Rows:
    """Value: the relaxed sample for normal noise [*batch, num_classes]. Gradient: ReinDGE's for the hard sample x."""
    z = solve(lambda z, lam: denoise(z, logits, lam), noise, schedule, solver)
    return attach_gradient(denoise(z, logits, schedule.last), _reindge_at(logits, z, x, schedule.last))


def _reindge_at(logits: Rows, z: Rows, x: Rows, lam: Any) -> Rows:
    path = denoise(z, stop_gradient(logits), lam)
    return path + second_order(stop_gradient(path), tangent(logits), stop_gradient(x))


@estimator
def exact_redge(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    num_steps: int = 4,
    t1: float | Array = 0.5,
    grid: str = "lambda",
    num_noises: int = 1,
    second_order_weight: float | Array = 0.0,
    hard: bool = True,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws x ~ Categorical(softmax(logits)) exactly, with ReDGE's gradient given x: see `catreparam.exact_redge`.

    Raises ValueError for num_steps < 1, num_noises < 1, t1 outside [1e-4, 1], weight outside [0, 2]; TypeError or
    ValueError for bad input.

    >>> exact_redge(jnp.zeros((8, 3)), key=jax.random.key(0), num_noises=4).sum(-1).tolist() == [1.0] * 8
    True
    """
    check_flag("hard", hard)
    schedule = make_schedule(grid, num_steps, check_t1(t1, "exact_redge"))
    weight = _check_weight(second_order_weight) if hard else 0.0
    num_noises = check_count("num_noises", num_noises)
    rows = to_rows(logits, mask, axis, key)
    schedule = schedule_for_rows(schedule, rows, axis)
    weight = for_rows("second_order_weight", weight, rows, axis)
    key_x, key_noise = jax.random.split(key)
    x = draw_one_hot(jax.nn.softmax(rows, -1), key_x)
    half = draw_normal_like(rows, key_noise, ((num_noises + 1) // 2, *rows.shape))
    noise = jnp.concatenate([half, -half])[:num_noises]  # antithetic pairs
    surrogate = exact_redge_surrogate(rows, noise=noise, x=x, schedule=schedule, second_order_weight=weight)
    return from_rows(attach_gradient(x, surrogate) if hard else surrogate, logits, axis)


def exact_redge_surrogate(
    logits: Rows, *, noise: Array, x: Rows, schedule: NoiseSchedule, second_order_weight: float | Array = 0.0
) -> Rows:
    """Value: the mean relaxed sample. Gradient: exact-law ReDGE's for the hard sample x.

    `noise` is standard normal, [*batch, num_classes] or [num_noises, *batch, num_classes]: z = lambda_1 x + noise.
    """
    x = stop_gradient(x)
    z = schedule.last * x + noise
    change = tangent(logits)
    constant = stop_gradient(logits)
    moved = sweep(lambda z, lam: denoise(z, constant, lam), covariance_product, stop_gradient(z), change, schedule)
    x_soft = denoise(z, constant, schedule.last)
    change = second_order(x_soft, change + schedule.last * moved, x, _check_weight(second_order_weight))
    if z.ndim > logits.ndim:
        x_soft, change = x_soft.mean(0), change.mean(0)
    return attach_gradient(x_soft, change)


def _check_weight(weight: Any) -> float | Array:
    return check_hyperparameter("second_order_weight", weight, least=0.0, most=2.0, without_gradient="exact_redge")


def denoise(z: BroadcastRows, logits: BroadcastRows, lam: Any) -> BroadcastRows:
    """E[x_0 | z] = softmax(logits + lambda z), exact for a one-hot x_0 with prior softmax(logits)."""
    return jax.nn.softmax(logits + lam * z, -1)
