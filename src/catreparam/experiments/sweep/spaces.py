"""Where a sweep looks for good hyperparameters: one space per estimator, and how one point of it becomes a spec."""

from dataclasses import dataclass
from typing import Any

from catreparam.estimators import ESTIMATORS
from catreparam.experiments.runs.estimator_specs import parse_spec


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, on a logarithmic scale if asked, whole if low is an int; `start` is tried first."""

    low: float
    high: float
    start: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of several values; `start` is tried first."""

    values: tuple[Any, ...]
    start: Any


Space = dict[str, Range | Choice]

_TEMPERATURE = Range(0.1, 2.0, 1.0, log=True)
_T1 = Range(0.3, 0.95, 0.5)  # variance explodes below .3
_STEPS = Range(2, 6, 4)
_NOISES = Choice((1, 2, 4, 8), 2)
_WEIGHT = Range(0.0, 1.5, 1.0)
_REDGE: Space = {"t1": _T1, "num_steps": _STEPS}

SEARCH_SPACES: dict[str, Space] = {
    "straight_through": {},
    "gumbel_softmax": {"temperature": _TEMPERATURE},
    "gumbel_rao": {"temperature": Range(0.1, 2.0, 0.5, log=True), "num_noises": Choice((10, 100), 10)},
    "gapped_straight_through": {"temperature": _TEMPERATURE, "gap": Range(0.3, 3.0, 1.0, log=True)},
    "decoupled_straight_through": {
        "forward_temperature": _TEMPERATURE,
        "backward_temperature": Range(0.1, 2.0, 0.5, log=True),
    },
    "reinmax": {"temperature": Range(0.7, 1.5, 1.0)},
    "reinmax_rao": {"temperature": Range(0.1, 2.0, 0.5, log=True), "num_noises": Choice((10, 100), 10)},
    "reinmax_cv": {"temperature": Range(0.1, 2.0, 0.5, log=True), "eta": Range(0.0, 1.0, 0.1)},
    "lambda_reinmax": {"weight": Range(0.3, 1.5, 0.75)},
    "redge": _REDGE,
    "redge_cov": _REDGE,
    "reindge": _REDGE,
    "exact_redge": {"t1": _T1, "num_noises": _NOISES, "second_order_weight": _WEIGHT},
    "transport_redge": {"t1": _T1, "num_noises": _NOISES, "second_order_weight": _WEIGHT},
    "rebar": {"temperature": Range(0.1, 2.0, 0.5, log=True), "eta": Range(0.0, 1.5, 1.0)},
    "reinmax_rloo": {"second_order_weight": _WEIGHT},
    "unbiased_redge": {"t1": _T1, "eta": Range(0.0, 1.5, 1.0)},
}


def space_of(spec: str, lr_range: tuple[float, float], lr: float) -> Space:
    """What is searched for an estimator: its space without the hyperparameters that the spec fixes, and the rate `lr`.

    Estimators without a space of their own (`relax`, or one added later) are searched in the learning rate only. A
    range of one value fixes the learning rate.
    """
    name, fixed = parse_spec(spec)
    space = {key: values for key, values in SEARCH_SPACES.get(name, {}).items() if key not in fixed}
    low, high = lr_range
    return space if low == high else {**space, "lr": Range(low, high, min(max(lr, low), high), log=True)}


def start_of(space: Space) -> dict[str, Any]:
    """The point that is tried first: the defaults, or the paper's values."""
    return {key: values.start for key, values in space.items()}


def spec_at(spec: str, point: dict[str, Any]) -> str:
    """The estimator at a point, as users write it; a learning rate in the point is not the estimator's and left out.

    >>> spec_at("redge:solver=heun", {"t1": 0.5, "lr": 1e-3})
    'redge:solver=heun,t1=0.5'
    """
    items = [f"{key}={_show(value)}" for key, value in point.items() if key != "lr"]
    return spec + (("," if ":" in spec else ":") + ",".join(items) if items else "")


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


assert set(SEARCH_SPACES) <= set(ESTIMATORS)
