"""ReDGE, its covariance-matched variant and ReinDGE for JAX."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jaxtyping import Bool, Float

from catreparam.jax.categorical import (
    Rows,
    attach_gradient,
    draw_normal_like,
    draw_one_hot,
    finite,
    from_rows,
    second_order,
    to_rows,
)
from catreparam.jax.chain import denoise
from catreparam.kernels.naive.chain import solve
from catreparam.noise_schedule import NoiseSchedule, make_schedule
from catreparam.validation import check_flag


def redge(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    num_steps: int = 4,
    t1: float = 0.5,
    grid: str = "alpha",
    solver: str = "euler",
    hard: bool = True,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws a one-hot x whose gradient flows back through a diffusion sampler: see `catreparam.redge`.

    Raises ValueError for num_steps < 1, t1 outside (0, 1], unknown grid or solver; TypeError or ValueError for bad input.

    >>> import jax, jax.numpy as jnp
    >>> redge(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    check_flag("hard", hard)
    schedule = make_schedule(grid, num_steps, t1)
    rows = to_rows(logits, mask, axis, key)
    key_noise, key_x = jax.random.split(key)
    x_soft = redge_surrogate(rows, noise=draw_normal_like(rows, key_noise), schedule=schedule, solver=solver)
    return from_rows(attach_gradient(draw_one_hot(x_soft, key_x), x_soft) if hard else x_soft, logits, axis)


def redge_surrogate(
    logits: Rows, *, noise: Rows, x: Rows | None = None, schedule: NoiseSchedule, solver: str = "euler"
) -> Rows:
    """The relaxed sample x0_hat for standard normal noise [*batch, num_classes]; x is accepted and not needed."""
    z = solve(lambda z, lam: denoise(z, logits, lam), noise, schedule, solver)
    return denoise(z, logits, schedule.last)


def redge_cov(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    num_steps: int = 4,
    t1: float = 0.5,
    grid: str = "alpha",
    solver: str = "euler",
    hard: bool = True,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """ReDGE whose diffusion ends in a Gaussian with the mean and variances of x: see `catreparam.redge_cov`.

    Raises ValueError for num_steps < 1, t1 outside (0, 1], unknown grid or solver; TypeError or ValueError for bad input.

    >>> import jax, jax.numpy as jnp
    >>> redge_cov(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    check_flag("hard", hard)
    schedule = make_schedule(grid, num_steps, t1)
    rows = to_rows(logits, mask, axis, key)
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

    def denoise_matched(z: Array, lam: float) -> Array:
        return jax.nn.softmax(logits + (lam * (z - mean) - lam**2 / 2) / variance, -1)

    z = solve(denoise_matched, mean + jnp.sqrt(variance) * noise, schedule, solver)
    return denoise_matched(z, schedule.last)


def reindge(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    num_steps: int = 4,
    t1: float = 0.5,
    grid: str = "alpha",
    solver: str = "euler",
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws x by ReDGE; the direct dependence at the last step uses ReinMax's Jacobian: see `catreparam.reindge`.

    Raises ValueError for num_steps < 1, t1 outside (0, 1], unknown grid or solver; TypeError or ValueError for bad input.

    >>> import jax, jax.numpy as jnp
    >>> reindge(jnp.zeros((8, 3)), key=jax.random.key(0)).sum(-1).tolist() == [1.0] * 8
    True
    """
    schedule = make_schedule(grid, num_steps, t1)
    rows = to_rows(logits, mask, axis, key)
    key_noise, key_x = jax.random.split(key)
    z = solve(lambda z, lam: denoise(z, rows, lam), draw_normal_like(rows, key_noise), schedule, solver)
    x = draw_one_hot(denoise(z, rows, schedule.last), key_x)
    return from_rows(attach_gradient(x, _reindge_at(rows, z, x, schedule.last)), logits, axis)


def reindge_surrogate(logits: Rows, *, noise: Rows, x: Rows, schedule: NoiseSchedule, solver: str = "euler") -> Rows:
    """Value: the relaxed sample for standard normal noise [*batch, num_classes]. Gradient: ReinDGE's for the hard sample x."""
    z = solve(lambda z, lam: denoise(z, logits, lam), noise, schedule, solver)
    return attach_gradient(denoise(z, logits, schedule.last), _reindge_at(logits, z, x, schedule.last))


def _reindge_at(logits: Rows, z: Rows, x: Rows, lam: float) -> Rows:
    path = denoise(z, stop_gradient(logits), lam)
    return path + second_order(stop_gradient(path), finite(logits), stop_gradient(x))
