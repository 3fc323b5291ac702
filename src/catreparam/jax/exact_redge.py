"""Exact-law ReDGE for JAX: draw the hard sample first, then the diffusion that leads to it; average over its noise."""

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
    finite,
    from_rows,
    second_order,
    to_rows,
)
from catreparam.jax.chain import denoise
from catreparam.noise_schedule import NoiseSchedule, make_schedule
from catreparam.validation import check_count, check_flag, check_number


def exact_redge(
    logits: Float[Array, "*batch num_classes"],
    *,
    key: Array,
    num_steps: int = 4,
    t1: float = 0.5,
    grid: str = "lambda",
    num_noises: int = 1,
    second_order_weight: float = 0.0,
    hard: bool = True,
    mask: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "*batch num_classes"]:
    """Draws x ~ Categorical(softmax(logits)) exactly, with ReDGE's gradient given x: see `catreparam.exact_redge`.

    Raises ValueError for num_steps < 1, num_noises < 1, t1 outside (0, 1], weight outside [0, 2]; TypeError or ValueError
    for bad input.

    >>> import jax, jax.numpy as jnp
    >>> exact_redge(jnp.zeros((8, 3)), key=jax.random.key(0), num_noises=4).sum(-1).tolist() == [1.0] * 8
    True
    """
    check_flag("hard", hard)
    schedule = make_schedule(grid, num_steps, t1)
    weight = check_number("second_order_weight", second_order_weight, least=0.0, most=2.0) if hard else 0.0
    check_count("num_noises", num_noises)
    rows = to_rows(logits, mask, axis, key)
    key_x, key_noise = jax.random.split(key)
    x = draw_one_hot(jax.nn.softmax(rows, -1), key_x)
    half = draw_normal_like(rows, key_noise, ((num_noises + 1) // 2, *rows.shape))
    noise = jnp.concatenate([half, -half])[:num_noises]  # antithetic pairs
    surrogate = exact_redge_surrogate(rows, noise=noise, x=x, schedule=schedule, second_order_weight=weight)
    return from_rows(attach_gradient(x, surrogate) if hard else surrogate, logits, axis)


def exact_redge_surrogate(
    logits: Rows, *, noise: Array, x: Rows, schedule: NoiseSchedule, second_order_weight: float = 0.0
) -> Rows:
    """Value: the mean relaxed sample. Gradient: exact-law ReDGE's for the hard sample x.

    `noise` is standard normal, [*batch, num_classes] or [num_noises, *batch, num_classes]: z = lambda_1 x + noise.
    """
    x = stop_gradient(x)
    z = schedule.last * x + noise
    tangent = finite(logits)
    moved = sweep_tangent(logits, z, tangent, schedule)
    x_soft = denoise(z, stop_gradient(logits), schedule.last)
    change = second_order(x_soft, tangent + schedule.last * moved, x, second_order_weight)
    if z.ndim > logits.ndim:
        x_soft, change = x_soft.mean(0), change.mean(0)
    return attach_gradient(x_soft, change)


def sweep_tangent(
    logits: BroadcastRows, z: BroadcastRows, tangent: BroadcastRows, schedule: NoiseSchedule
) -> BroadcastRows:
    """How z moves with the logits at fixed noise: sweep z back by Heun steps, carry the tangent forward again."""
    logits, z = stop_gradient(logits), stop_gradient(z)
    nodes: list[tuple[float, float, Array, Array]] = []  # noise end first once reversed
    for start, end in reversed(list(schedule.intervals())):
        step, upper = end - start, denoise(z, logits, end)
        predicted = denoise(z - step * upper, logits, start)
        z = z - (step / 2) * (upper + predicted)
        nodes.append((start, end, denoise(z, logits, start), upper))
    moved = jnp.zeros_like(z)
    for start, end, lower, upper in reversed(nodes):
        step = end - start
        slope = covariance_product(lower, tangent + start * moved)
        slope_end = covariance_product(upper, tangent + end * (moved + step * slope))
        moved = moved + (step / 2) * (slope + slope_end)
    return moved
