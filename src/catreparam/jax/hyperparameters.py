"""Hyperparameters that may be numbers or arrays: one value for all rows, one for each, traced and learned ones too."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from catreparam.arguments import forgiving
from catreparam.noise_schedule import SMALLEST_T1, NoiseSchedule, spaced
from catreparam.noise_schedule import make_schedule as schedule_of_numbers
from catreparam.validation import check_number

_RELAXING: list[str] = []  # the estimators with hard=False
Function = TypeVar("Function", bound=Callable[..., Array])


def estimator(function: Function) -> Function:
    """Makes a public function `forgiving`."""
    if "hard" in inspect.signature(function).parameters:
        _RELAXING.append(function.__name__)
    return cast(Function, forgiving(function, lambda: _RELAXING))


def check_hyperparameter(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    without_gradient: str = "",
) -> float | Array:
    """As `check_number`, but an array of several values, or a traced one, stays an array.

    `without_gradient`: the estimator that has none to give it; differentiating in it is then a ValueError. Traced
    values cannot be looked at.
    """
    if isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a number or an array, got {type(value).__name__}; use jnp.asarray({name})")
    if not isinstance(value, (Array, np.ndarray)):
        return check_number(name, value, above=above, least=least, most=most)
    array = jnp.asarray(value)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"{name} must be a number or an array of real numbers, got {array.dtype}")
    if not isinstance(array, Tracer):
        if array.ndim == 0:
            return check_number(name, array.item(), above=above, least=least, most=most)
        for bound in (array.min(), array.max()) if array.size else ():  # a NaN is both
            check_number(name, bound.item(), above=above, least=least, most=most)
    array = array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.float32)
    return _constant(array, name, without_gradient) if without_gradient else array


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _constant(value: Array, name: str, estimator: str) -> Array:
    return value


@_constant.defjvp
def _refuse_to_differentiate(name: str, estimator: str, primals: Any, tangents: Any) -> Any:
    raise ValueError(f"{estimator} gives {name} no gradient; pass jax.lax.stop_gradient({name})")


def for_rows(name: str, value: Any, rows: Array, axis: int = -1) -> Any:
    """A checked hyperparameter as `rows` [*batch, num_classes] need it; given for logits with classes along `axis`.

    Raises ValueError for an array that holds neither one value nor one for every row, with an axis of size 1 for the
    classes.
    """
    if not isinstance(value, Array):
        return value
    if value.ndim > 0:
        wanted = list(rows.shape[:-1])
        wanted.insert(axis % rows.ndim, 1)
        try:
            value = jnp.moveaxis(jnp.broadcast_to(value, wanted), axis, -1)
        except ValueError:
            raise ValueError(
                f"{name} of shape {value.shape} must broadcast to {tuple(wanted)}: one value for every row, and an "
                "axis of size 1 for the classes"
            ) from None
    return value.astype(rows.dtype)


class ArraySchedule(NoiseSchedule):
    """A schedule whose lambdas are arrays, which are not looked at."""

    def __post_init__(self) -> None:
        """Checks nothing."""


def make_schedule(grid: str, num_steps: int, t1: float | Array) -> NoiseSchedule:
    """`catreparam.make_schedule`, which takes an array t1 too: one value, or one a row [*batch, 1], traced or not.

    >>> make_schedule("alpha", 3, jnp.array([[0.5], [0.8]])).last.shape
    (2, 1)
    """
    t1 = check_t1(t1)
    if not isinstance(t1, Array):
        return schedule_of_numbers(grid, num_steps, t1)
    return ArraySchedule(spaced(grid, num_steps, t1, jnp.minimum))


def check_t1(t1: Any, without_gradient: str = "") -> float | Array:
    """As `check_hyperparameter`."""
    return check_hyperparameter("t1", t1, least=SMALLEST_T1, most=1.0, without_gradient=without_gradient)


def schedule_for_rows(schedule: NoiseSchedule, rows: Array, axis: int) -> NoiseSchedule:
    """The schedule with arrays as rows need them. Raises what `for_rows` raises, naming t1."""
    if not isinstance(schedule, ArraySchedule):
        return schedule
    return ArraySchedule(tuple(for_rows("t1", value, rows, axis) for value in schedule.lambdas))
