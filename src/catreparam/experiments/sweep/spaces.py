"""Where a sweep looks for good hyperparameters: the space of an estimator's facts, and how one point becomes a spec."""

from typing import Any

from catreparam.estimators.facts import Range, Space, facts_of
from catreparam.experiments.runs.estimator_specs import parse_spec


def space_of(spec: str, lr_range: tuple[float, float], lr: float) -> Space:
    """What is searched for an estimator: its space without the hyperparameters that the spec fixes, and the rate `lr`.

    Estimators without a space of their own (`relax`, or one added later) are searched in the learning rate only. A
    range of one value fixes the learning rate.
    """
    name, fixed = parse_spec(spec)
    space = {key: values for key, values in facts_of(name).search.items() if key not in fixed}
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
