"""Numbers that change while training runs (t1, temperature, weights): schedules, and estimators that follow them.

(How a diffusion is discretised is another thing: `catreparam.NoiseSchedule`.)
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

from torch import Tensor

from catreparam.estimators.facts import ESTIMATORS
from catreparam.estimators.registry import Estimator, make_estimator
from catreparam.validation import check_count, check_number

__all__ = [
    "ConstantSchedule",
    "CosineSchedule",
    "ExponentialSchedule",
    "LinearSchedule",
    "PiecewiseSchedule",
    "Schedule",
    "ScheduledEstimator",
]


class Schedule(ABC):
    """A number that `step()` moves along a curve. `value` is the current one, also as float(schedule).

    `state_dict` holds the number of steps taken and what the curve is, so that a resumed run cannot silently follow
    another.
    """

    num_taken: int = 0

    @abstractmethod
    def value_at(self, step: int) -> float:
        """The value after `step` steps."""

    @property
    def value(self) -> float:
        """The current value."""
        return self.value_at(self.num_taken)

    def step(self, count: int = 1) -> float:
        """Takes `count` steps and returns the new value."""
        self.num_taken += check_count("count", count)
        return self.value

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings: {"num_taken": …, "schedule": …}."""
        return {"num_taken": self.num_taken, "schedule": repr(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken. Raises ValueError if it belongs to another schedule or misses a key."""
        missing = {"num_taken", "schedule"} - state.keys()
        if missing:
            raise ValueError(f"the state of a schedule needs num_taken and schedule, got the keys {sorted(state)}")
        if state["schedule"] != repr(self):
            raise ValueError(f"this state belongs to {state['schedule']}, not to {self!r}; make the same schedule")
        self.num_taken = check_count("num_taken", state["num_taken"], minimum=0)

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in vars(self).items() if key != "num_taken")
        return f"{type(self).__name__}({settings})"


@final
class ConstantSchedule(Schedule):
    """Always the same value.

    Parameters:
        constant: the value.

    >>> ConstantSchedule(0.5).step()
    0.5
    """

    def __init__(self, constant: float) -> None:
        self.constant = check_number("constant", constant)

    def value_at(self, step: int) -> float:
        return self.constant


@final
class LinearSchedule(Schedule):
    """From `start` to `end` in equal steps, then `end`.

    Parameters:
        start: the value before the first step.
        end: the value after the last one, and from then on.
        num_steps: steps from one to the other.

    >>> t1 = LinearSchedule(0.9, 0.5, num_steps=4)
    >>> [round(t1.value, 2), *(round(t1.step(), 2) for _ in range(5))]
    [0.9, 0.8, 0.7, 0.6, 0.5, 0.5]
    """

    def __init__(self, start: float, end: float, *, num_steps: int) -> None:
        self.start, self.end, self.num_steps = _checked_ramp(start, end, num_steps)

    def value_at(self, step: int) -> float:
        done = step >= self.num_steps
        return self.end if done else self.start + (self.end - self.start) * step / self.num_steps


@final
class CosineSchedule(Schedule):
    """From `start` to `end` along half a cosine, slowly at both ends, then `end`.

    Parameters:
        start: the value before the first step.
        end: the value after the last one, and from then on.
        num_steps: steps from one to the other.

    >>> CosineSchedule(1.0, 0.0, num_steps=2).step()
    0.5
    """

    def __init__(self, start: float, end: float, *, num_steps: int) -> None:
        self.start, self.end, self.num_steps = _checked_ramp(start, end, num_steps)

    def value_at(self, step: int) -> float:
        done = step >= self.num_steps
        return (
            self.end
            if done
            else self.end + (self.start - self.end) * (1 + math.cos(math.pi * step / self.num_steps)) / 2
        )


@final
class ExponentialSchedule(Schedule):
    """From `start` towards `end` by a constant factor a step, then `end`; both positive.

    Parameters:
        start: the value before the first step, positive.
        end: where it stops, positive.
        num_steps: steps from one to the other. Give this or decay.
        decay: the factor a step: below 1 if end < start, above 1 if end > start.

    >>> ExponentialSchedule(2.0, 0.5, num_steps=2).step()
    1.0
    >>> ExponentialSchedule(2.0, 0.5, decay=0.999995).step(10**6)  # wav2vec 2.0's temperature
    0.5
    """

    def __init__(self, start: float, end: float, *, num_steps: int | None = None, decay: float | None = None) -> None:
        self.start, self.end = check_number("start", start, above=0.0), check_number("end", end, above=0.0)
        if (num_steps is None) == (decay is None):
            raise ValueError(f"give either num_steps or decay, got num_steps={num_steps} and decay={decay}")
        self.num_steps = None if num_steps is None else check_count("num_steps", num_steps)
        self.decay = None if decay is None else check_number("decay", decay, above=0.0)
        if (
            self.decay is not None
            and (self.end / self.start - 1) * math.log(self.decay) <= 0
            and self.end != self.start
        ):
            raise ValueError(f"decay={decay} does not lead from start={start} to end={end}; is it 1 / decay?")

    def value_at(self, step: int) -> float:
        total = math.log(self.end / self.start)
        exponent = total * step / self.num_steps if self.num_steps is not None else math.log(self.decay or 1.0) * step
        return self.end if abs(exponent) >= abs(total) else self.start * math.exp(exponent)


@final
class PiecewiseSchedule(Schedule):
    """Straight lines between (step, value) points, constant before the first and after the last.

    Parameters:
        points: (step, value) pairs, steps increasing.

    >>> weight = PiecewiseSchedule([(0, 0.0), (10, 0.0), (20, 1.0)])
    >>> weight.step(15)
    0.5
    """

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        pairs = [(check_count("step", step, minimum=0), check_number("value", value)) for step, value in points]
        if not pairs:
            raise ValueError("points must hold at least one (step, value), got none")
        if any(b[0] <= a[0] for a, b in zip(pairs, pairs[1:], strict=False)):
            raise ValueError(f"the steps of points must increase, got {[step for step, _ in pairs]}")
        self.points = tuple(pairs)

    def value_at(self, step: int) -> float:
        for (begin, low), (end, high) in zip(self.points, self.points[1:], strict=False):
            if begin <= step < end:
                return low + (high - low) * (step - begin) / (end - begin)
        return self.points[0][1] if step < self.points[0][0] else self.points[-1][1]


@final
class ScheduledEstimator:
    """The estimator called `name` with hyperparameters of which some are Schedules; called like the estimator itself.

    Every call uses the schedules' current values; `step()` moves them. It goes wherever an estimator goes:
    `expectation`, `ReparameterizedCategorical`, the modules of `catreparam.nn`. A compiled function recompiles when a
    value changes: step once an epoch there, or in a few stages.

    Parameters:
        name: a key of ESTIMATORS.
        hyperparameters: its hyperparameters: numbers, or Schedules, which `step` moves.

    Raises: what `make_estimator` raises, for the schedules' first values.

    >>> estimator = ScheduledEstimator("redge", t1=LinearSchedule(0.9, 0.5, num_steps=100))
    >>> estimator.step()["t1"]
    0.896
    >>> estimator(torch.zeros(4, 3)).shape
    torch.Size([4, 3])
    """

    def __init__(self, name: str, **hyperparameters: Any) -> None:
        self.schedules = {key: value for key, value in hyperparameters.items() if isinstance(value, Schedule)}
        first = {key: schedule.value for key, schedule in self.schedules.items()}
        self._estimator = make_estimator(name, **{**hyperparameters, **first})
        self.name = self.__name__ = name
        self.__signature__ = inspect.signature(ESTIMATORS[name])  # tells `expectation` whether it takes an objective

    def __call__(self, *arguments: Any, **keywords: Any) -> Tensor:
        return self.current_estimator()(*arguments, **keywords)

    def current_estimator(self) -> Estimator:
        """The estimator at the schedules' current values: what `resolve` finds the facts by."""
        return Estimator(self._estimator.func, **{**self._estimator.keywords, **self.values()})

    def values(self) -> dict[str, float]:
        """The scheduled hyperparameters as they are now."""
        return {key: schedule.value for key, schedule in self.schedules.items()}

    def step(self, count: int = 1) -> dict[str, float]:
        """Moves every schedule by `count` steps; returns the new values."""
        return {key: schedule.step(count) for key, schedule in self.schedules.items()}

    def state_dict(self) -> dict[str, Any]:
        """The states of the schedules by the names of their hyperparameters."""
        return {key: schedule.state_dict() for key, schedule in self.schedules.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undoes `state_dict`. Raises ValueError if the names or the schedules are others."""
        if state.keys() != self.schedules.keys():
            raise ValueError(f"this state schedules {sorted(state)}, the estimator {sorted(self.schedules)}")
        for key, schedule in self.schedules.items():
            schedule.load_state_dict(state[key])

    def __repr__(self) -> str:
        hyperparameters = {**self._estimator.keywords, **self.schedules}
        arguments = [repr(self.name), *(f"{key}={value!r}" for key, value in hyperparameters.items())]
        return f"ScheduledEstimator({', '.join(arguments)})"


def _checked_ramp(start: float, end: float, num_steps: int) -> tuple[float, float, int]:
    return check_number("start", start), check_number("end", end), check_count("num_steps", num_steps)
