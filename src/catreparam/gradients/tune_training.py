"""Choosing an estimator by training with it: short runs of the caller's own training, of which the better go on."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from catreparam.estimators.registry import Estimator, make_estimator
from catreparam.gradients.tune import SEARCH_SPACE, candidates, expand, show_setting
from catreparam.validation import check_count, check_number

SHOWN = 12  # rows of print(result)


@dataclass(frozen=True)
class TrainedRow:
    """One setting, and what its training has said.

    Fields:
        estimator: the setting, ready to use.
        values: what the training yielded, one after the other; lower is better.
        seconds: how long that took.
        learning_rate: what it was trained at; None if `train` has its own.
    """

    estimator: Estimator
    values: tuple[float, ...]
    seconds: float
    learning_rate: float | None = None

    @property
    def diverged(self) -> bool:
        """Whether it ended in a value that is not finite."""
        return bool(self.values) and not math.isfinite(self.values[-1])

    def show(self) -> str:
        """name:key=value,… as the command line takes it, and the learning rate."""
        return _shown(self.estimator, self.learning_rate)


@dataclass(frozen=True)
class TrainingResult:
    """Every setting, best first: those that went furthest, ordered by their value at a length that they share.

    Fields:
        rows: one for every setting.
        compared: after how many values the finalists were compared.
        finalists: how many rows, from the first, were still in the race.
        out_of_time: whether max_seconds ended it.
    """

    rows: tuple[TrainedRow, ...]
    compared: int
    finalists: int
    out_of_time: bool

    @property
    def recommended(self) -> Estimator:
        """The estimator that trained best, as far as the training went; its learning rate is in rows[0]."""
        return self.rows[0].estimator

    def __str__(self) -> str:
        width = max(len(row.show()) for row in self.rows)
        lines = [
            f"Recommended: {self.rows[0].show()}, the best of {self.describe()} (*)",
            f"  {'setting':<{width}}  value",
        ]
        for place, row in enumerate(self.rows[:SHOWN]):
            shown = f"{row.values[-1]:.6g} after {len(row.values)}" if row.values else "not tried"
            star = "*" if place < self.finalists else " "
            lines.append(f"{star} {row.show():<{width}}  {shown}{', diverged' * row.diverged}")
        hidden = len(self.rows) - SHOWN
        return "\n".join([*lines, *[f"  and {hidden} more, in `rows`"][: max(0, hidden)]])

    def describe(self) -> str:
        """What was compared, in words."""
        untried = sum(not row.values for row in self.rows)
        told = f"{len(self.rows) - untried} settings; at the end {self.finalists} compared after {self.compared}"
        told += " value" if self.compared == 1 else " values"
        told += f"; {untried} not tried for want of time: give more, or fewer estimators" if untried else ""
        return told + (" (time is up)" if self.out_of_time else "")


class _Runner:
    """A training that can be continued."""

    def __init__(
        self, train: Callable[..., Iterable[float]], estimator: Estimator, learning_rate: float | None
    ) -> None:
        self.train, self.estimator, self.learning_rate = train, estimator, learning_rate
        self.iterator: Iterator[float] | None = None
        self.values: list[float] = []
        self.seconds, self.over = 0.0, False
        self.grad_enabled, self.inference_outside = True, torch.is_inference_mode_enabled()

    def advance(self) -> None:
        """One value more, or it is over. Raises TypeError for what is no number."""
        began = time.perf_counter()
        if self.iterator is None:
            more = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
            made = self.train(self.estimator, **more)
            if not isinstance(made, Iterator):
                got = type(made).__name__
                raise TypeError(f"train must be a generator function, which yields its losses; it returned {got}")
            self.iterator = made
        value = self._next(self.iterator)
        self.seconds += time.perf_counter() - began
        if value is None:
            if not self.values:
                raise ValueError(f"train yielded no loss with {self.show()}")
            self.over = True
            return
        try:
            self.values.append(float(value.detach() if isinstance(value, Tensor) else value))
        except (TypeError, ValueError) as error:
            got = f"{type(value).__name__} with {self.show()}"
            raise TypeError(f"train must yield losses as numbers, got {got}") from error
        self.over = self.row().diverged

    def _next(self, iterator: Iterator[float]) -> float | None:
        """What it yields, None at its end. Nothing that it does inside `no_grad()` reaches the other trainings.

        Raises RuntimeError if it yields inside `inference_mode()`, which cannot be kept from them.
        """
        outside = torch.is_grad_enabled()
        torch.set_grad_enabled(self.grad_enabled)
        try:
            value = next(iterator, None)
        finally:
            self.grad_enabled = torch.is_grad_enabled()
            torch.set_grad_enabled(outside)
        if torch.is_inference_mode_enabled() and not self.inference_outside:
            raise RuntimeError("train yielded inside torch.inference_mode(), which stays on then; yield outside of it")
        return value

    def row(self) -> TrainedRow:
        """What is known of it."""
        return TrainedRow(self.estimator, tuple(self.values), self.seconds, self.learning_rate)

    def show(self) -> str:
        """Its name in messages."""
        return _shown(self.estimator, self.learning_rate)

    def value_after(self, count: int) -> float:
        """The value after so many, or the last one if the training ended before."""
        return math.inf if not self.values or self.row().diverged else self.values[min(count, len(self.values)) - 1]

    def close(self) -> None:
        """Ends the training, so that its memory is free."""
        if self.iterator is not None and hasattr(self.iterator, "close"):
            with torch.set_grad_enabled(torch.is_grad_enabled()):  # as it was, whatever the training leaves
                self.iterator.close()  # pyright: ignore[reportAttributeAccessIssue]
        self.iterator, self.over = None, True


def tune_training(
    train: Callable[..., Iterable[float]],
    *,
    estimators: Iterable[str | Estimator] | None = None,
    learning_rates: Sequence[float] = (),
    search_space: Mapping[str, Mapping[str, Sequence[object]]] = SEARCH_SPACE,
    num_samples: int = 1,
    first: int = 1,
    reduction: int = 3,
    max_seconds: float = 300.0,
    progress: Callable[[int, Iterable[Estimator]], Iterable[Estimator]] = lambda _, settings: settings,
) -> TrainingResult:
    """Trains with every setting for a short while, goes on with the better third, and so on until one is left.

    train: a generator function. `train(estimator)` trains a model of your own and yields the validation loss (lower is
    better) as it goes: after every epoch, or every hundred steps. It is continued where it stopped, so that nothing is
    trained twice. Give every setting the same seed. All trainings still in the race are held in memory. Each gets an
    estimator of its own, also where that learns (`relax`).

    First every setting yields `first` values; the best `1 / reduction` of them go on to `reduction` times as many, and
    so on (successive halving, Jamieson and Talwalkar 2016). After `max_seconds` no training goes on, and what is known
    decides. A value that is not finite, or an ArithmeticError, takes a setting out of the race.

    What this cannot see is what happens later: a method that learns fastest and overfits first wins a short race.
    Cost: about `first * n` values a round with n settings, in log n / log reduction rounds, one training at a time.

    `estimators`: a name is expanded over `search_space`; a made estimator is tried as it is. None: those of
    SEARCH_SPACE, each with its defaults, and, from two `num_samples` on, reinmax_rloo and rloo, which need several.
    So a first call finds the method, and a second one with its name the hyperparameters.
    `learning_rates`: every setting is tried at each of these, by `train(estimator, learning_rate=…)`; a good learning
    rate often matters more than the method. None given: `train(estimator)` has its own.

    Raises: TypeError or ValueError for bad arguments and for a `train` that yields no number; what `train` itself
        raises goes through.
    Source: Jamieson, Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016.

    >>> def train(estimator):
    ...     for epoch in range(9):
    ...         yield (1.0 if estimator.name == "reinmax" else 2.0) / (1 + epoch)
    >>> tune_training(train, estimators=["straight_through", "reinmax"], search_space={}).recommended
    make_estimator('reinmax')
    """
    check_count("num_samples", num_samples)
    check_count("first", first)
    check_count("reduction", reduction, minimum=2)
    check_number("max_seconds", max_seconds, above=0.0)
    entries = map(make_estimator, candidates(num_samples)) if estimators is None else estimators
    rates = [check_number("learning_rates", rate, above=0.0) for rate in learning_rates] or [None]
    settings = [setting for entry in entries for setting in expand(entry, search_space)]
    runners = [_Runner(train, copy.deepcopy(setting), rate) for setting in settings for rate in rates]
    if not runners:
        raise ValueError("estimators must name at least one estimator, got none")
    try:
        return _race(runners, first, reduction, time.perf_counter() + max_seconds, progress)
    finally:
        for runner in runners:
            runner.close()


def _shown(estimator: Estimator, learning_rate: float | None) -> str:
    return show_setting(estimator) + ("" if learning_rate is None else f" at learning rate {learning_rate:g}")


def _race(
    runners: list[_Runner],
    first: int,
    reduction: int,
    deadline: float,
    progress: Callable[[int, Iterable[Estimator]], Iterable[Estimator]],
) -> TrainingResult:
    """Rounds of growing length until the best of a few is found, all have ended, or time is up."""
    alive, dropped, length, compared, late = runners, list[_Runner](), first, first, False
    while True:
        late = not _round(alive, length, deadline, progress)
        if late and length > first:  # a round that is not whole: what counts is the one before
            break
        compared = length
        alive.sort(key=lambda runner: runner.value_after(compared))
        kept = math.ceil(len(alive) / reduction)
        if late or kept == 1 or all(runner.over for runner in alive):
            break
        for runner in alive[kept:]:
            runner.close()
        dropped = alive[kept:] + dropped
        alive, length = alive[:kept], length * reduction
    rows = tuple(runner.row() for runner in [*alive, *dropped])
    finalists = sum(runner.value_after(compared) < math.inf for runner in alive)
    if not finalists:
        raise ValueError("no setting gave a finite loss; lower the learning rate, or look at what train yields")
    return TrainingResult(rows, compared, finalists, late)


def _round(
    alive: Sequence[_Runner],
    length: int,
    deadline: float,
    progress: Callable[[int, Iterable[Estimator]], Iterable[Estimator]],
) -> bool:
    """Takes every setting to `length` values; False when the time is up before."""
    for runner, _ in zip(alive, progress(length, [runner.estimator for runner in alive]), strict=True):
        while not runner.over and len(runner.values) < length:
            if time.perf_counter() > deadline and any(other.values for other in alive):
                return False
            try:
                runner.advance()
            except ArithmeticError:
                runner.values.append(math.nan)
                runner.over = True
    return True
