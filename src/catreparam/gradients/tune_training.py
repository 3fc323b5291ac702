"""Choosing an estimator by training with it: short runs of the caller's own training, of which the better go on."""

import copy
import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from catreparam.estimators.registry import Estimator
from catreparam.gradients.torch_state import TorchState
from catreparam.gradients.training import TrainedRow, Training
from catreparam.gradients.tune import SEARCH_SPACE, candidates, expand, show_setting
from catreparam.validation import check_count, check_number

SHOWN = 12  # rows of print(result)


@dataclass(frozen=True)
class TrainingResult:
    """Every setting, best first: those that went furthest, ordered by their value at a length that they share.

    Fields:
        rows: one for every setting.
        compared: after how many values the finalists were compared; those with fewer, after their last.
        finalists: how many rows, from the first, were still in the race.
        out_of_time: whether max_seconds ended it, or Ctrl-C.
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
        shorter = any(len(row.values) < self.compared for row in self.rows[: self.finalists])
        told += ", those with fewer after their last" if shorter else ""
        told += f"; {untried} not tried for want of time: give more, or fewer estimators" if untried else ""
        return told + (" (time is up)" if self.out_of_time else "")


class RaceInterrupted(KeyboardInterrupt):
    """Ctrl-C. `result` is what was known then; `report` may be given to be shown."""

    report: object = None

    def __init__(self, result: TrainingResult) -> None:
        super().__init__("interrupted; the table shows what was known until then")
        self.result = result


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
    estimator of its own, also where that learns (`relax`), and torch's global random numbers, grad mode and autocast to
    itself, all as the caller has them now (grad mode on); the caller finds them as they were.

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

    Raises: TypeError or ValueError for bad arguments, also for the same setting twice, and for a `train` that yields no
        number; ValueError, which names the setting, for an exception of `train`, which is its __cause__. Ctrl-C is a
        KeyboardInterrupt that has what is known as its `result`.
    Source: Jamieson, Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016.

    >>> def train(estimator):
    ...     for epoch in range(9):
    ...         yield (1.0 if estimator.name == "reinmax" else 2.0) / (1 + epoch)
    >>> tune_training(train, estimators=["straight_through", "reinmax"], search_space={}).recommended
    make_estimator('reinmax')
    """
    if not callable(train):
        raise TypeError(f"train must be a generator function, which yields its losses, got {train!r}")
    check_count("num_samples", num_samples)
    check_count("first", first)
    check_count("reduction", reduction, minimum=2)
    check_number("max_seconds", max_seconds, above=0.0)
    rates = [
        check_number("learning_rates", rate, above=0.0) for rate in _listed("learning_rates", learning_rates, [0.1])
    ]
    if len(set(rates)) < len(rates):
        raise ValueError(f"learning_rates must be different values, got {rates}")
    with ExitStack() as stack:
        stack.callback(TorchState.now().restore)
        entries = candidates(num_samples) if estimators is None else _listed("estimators", estimators, ["redge"])
        space = {} if estimators is None else search_space
        settings = [setting for entry in entries for setting in expand(entry, space)]
        if not settings:
            raise ValueError("estimators must name at least one estimator, got none")
        _check_distinct([*(entry for entry in entries if isinstance(entry, str)), *settings])
        trainings = [Training(train, copy.deepcopy(setting), rate) for setting in settings for rate in rates or [None]]
        for training in trainings:
            stack.callback(training.close)
        return _race(trainings, first, reduction, time.perf_counter() + max_seconds, progress)


def _listed(name: str, values: object, such: list[Any]) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list such as {such}, got {values!r}")
    return list(values)


def _check_distinct(items: Iterable[str | Estimator]) -> None:
    """Raises ValueError for the same name or setting twice; a hyperparameter at its default makes no other setting."""
    seen = dict[object, str]()
    for item in items:
        shown = item if isinstance(item, str) else show_setting(item)
        same = seen.get(key := item if isinstance(item, str) else _identity(item))
        if same is not None:
            what = "is listed twice" if same == shown else f"is the same as {same}"
            raise ValueError(f"estimators must be different ones: {shown} {what}; leave one out")
        seen[key] = shown


def _identity(setting: Estimator) -> object:
    defaults = {key: found.default for key, found in inspect.signature(setting.func).parameters.items()}
    plain = {k: v if isinstance(v, (str, int, float)) or v is None else id(v) for k, v in setting.keywords.items()}
    return setting.name, frozenset((key, value) for key, value in plain.items() if value != defaults.get(key))


def _race(
    trainings: list[Training],
    first: int,
    reduction: int,
    deadline: float,
    progress: Callable[[int, Iterable[Estimator]], Iterable[Estimator]],
) -> TrainingResult:
    """Rounds of growing length until the best of a few is found, all have ended, or time is up."""
    alive, dropped, length, compared, late = trainings, list[Training](), first, first, False
    while True:
        try:
            late = not _round(alive, length, deadline, progress)
        except KeyboardInterrupt as error:
            if all(training.value_after(compared) == math.inf for training in alive):
                raise
            raise RaceInterrupted(_result(alive, dropped, compared, late=True)) from error
        if late and length > first:  # a round that is not whole: what counts is the one before
            break
        compared = length
        alive.sort(key=lambda training: training.value_after(compared))
        kept = math.ceil(len(alive) / reduction)
        if late or kept == 1 or all(training.over for training in alive):
            break
        for training in alive[kept:]:
            training.close()
        dropped = alive[kept:] + dropped
        alive, length = alive[:kept], length * reduction
    return _result(alive, dropped, compared, late)


def _result(alive: Sequence[Training], dropped: Sequence[Training], compared: int, late: bool) -> TrainingResult:
    alive = sorted(alive, key=lambda training: training.value_after(compared))  # one may have diverged since
    rows = tuple(training.row() for training in [*alive, *dropped])
    finalists = sum(training.value_after(compared) < math.inf for training in alive)
    if not finalists:
        raise ValueError("no setting gave a finite loss; lower the learning rate, or look at what train yields")
    compared = min(compared, max(len(row.values) for row in rows[:finalists]))
    return TrainingResult(rows, compared, finalists, late)


def _round(
    alive: Sequence[Training],
    length: int,
    deadline: float,
    progress: Callable[[int, Iterable[Estimator]], Iterable[Estimator]],
) -> bool:
    """Takes every setting to `length` values; False when the time is up before."""
    for training, _ in zip(alive, progress(length, [training.estimator for training in alive]), strict=True):
        while not training.over and len(training.values) < length:
            if time.perf_counter() > deadline and any(other.values for other in alive):
                return False
            try:
                training.advance()
            except ArithmeticError:
                training.values.append(math.nan)
                training.over = True
    return True
