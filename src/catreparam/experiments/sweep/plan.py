"""What a sweep is made of: the study that it tunes, its folder, and the hyperparameters that it has chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import AfterValidator, Discriminator, Tag, TypeAdapter
from typing_extensions import NotRequired, TypedDict

from catreparam.estimators.facts import ESTIMATORS, Range, Space, facts_of
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.runs.records import Count, Number, line
from catreparam.experiments.sweep.config import SweepConfig
from catreparam.experiments.sweep.spaces import space_of
from catreparam.report import ImageGrid

Say = Callable[[int, float], None]  # step and validation value so far


def _kind(record: Any) -> str:
    if not isinstance(record, dict):
        return "search"
    complete = " complete" if record.get("state") == "complete" else ""
    return ("final" if record.get("phase") == "final" else "search") + complete


def _of_one_length(curves: dict[str, list[float]]) -> dict[str, list[float]]:
    if "step" not in curves or len({len(values) for values in curves.values()}) > 1:
        raise ValueError("the curves must have a step and be of one length")
    return curves


def _with_numbers(trial: Record) -> Record:
    """A trial whose point has numbers wherever the space is a range."""
    name = trial["estimator"].partition(":")[0]
    space = facts_of(name).search if name in ESTIMATORS else {}  # another version may have had others
    for key, value in trial["point"].items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number and (key == "lr" or isinstance(space.get(key), Range)):
            raise ValueError(f"{key} of the point must be a number, got {value!r}")
    return trial


@line
class Trial(TypedDict):
    """A search trial that did not end well, or any, without its value."""

    phase: Literal["search"]
    estimator: str
    number: Count
    point: dict[str, bool | int | Number | str | None]
    state: Literal["complete", "pruned", "diverged"]
    reported: NotRequired[list[tuple[Count, Number | None]]]
    rungs: NotRequired[dict[str, Any]]


@line
class Complete(Trial):
    """A search trial that ran to its end."""

    validation: Number


@line
class Diverging(TypedDict):
    """A final run that diverged, or had no setting as every trial had."""

    phase: Literal["final"]
    estimator: str
    number: int
    spec: NotRequired[str]
    lr: NotRequired[Number]
    state: str


@line
class Final(TypedDict):
    """A final run; further keys are what the study measures besides."""

    phase: Literal["final"]
    estimator: str
    number: int
    spec: str
    lr: Number
    state: Literal["complete"]
    validation: Number
    test: Number
    curves: Annotated[dict[str, Annotated[list[Number], Len(1)]], AfterValidator(_of_one_length)]


LINES = TypeAdapter(
    Annotated[
        Annotated[Annotated[Trial, AfterValidator(_with_numbers)], Tag("search")]
        | Annotated[Annotated[Complete, AfterValidator(_with_numbers)], Tag("search complete")]
        | Annotated[Diverging, Tag("final")]
        | Annotated[Final, Tag("final complete")],
        Discriminator(_kind),
    ]
)


@dataclass(frozen=True)
class Study:
    """What a sweep needs of a study. Its functions are of modules, or partials of such: workers get it pickled."""

    name: str
    lr: float  # tried first
    num_steps: int  # how often `search` says a value: the resource of hyperband
    # (spec, lr, seed, say) -> validation value of a run on the tuning split, lower is better, which it says on the way
    search: Callable[[str, float, int, Say], float]
    # (spec, lr, seed, folder) -> `validation`, `test`, further values, and `curves`: {"step": [...], name: [...]}
    final: Callable[[str, float, int, Path], Record]
    facts: dict[str, str]  # what a reader must know about the protocol
    value_title: str
    y_label: str
    x_label: str = "step"
    log_y: bool = True
    # (a final run of each estimator, folder) -> pictures
    grids: Callable[[dict[str, Record], Path], list[ImageGrid]] | None = None


@dataclass(frozen=True)
class Chosen:
    """What an estimator's final runs use, with the validation value and the number of the trial that chose it."""

    spec: str
    lr: float
    validation: float | None = None
    trial: int | None = None


@dataclass(frozen=True)
class Sweep:
    """A checked sweep in its folder: what a worker needs to know. With `given`, nothing is searched."""

    config: SweepConfig
    study: Study
    folder: Path
    given: dict[str, Chosen] | None = None

    def space(self, spec: str) -> Space:
        """What is searched for an estimator."""
        return space_of(spec, self.config.lr_range, self.study.lr)

    def lr_at(self, point: Record) -> float:
        """The learning rate at a point of the search, which lacks it where the range is one value."""
        return point.get("lr", self.config.lr_range[0])


def searched(records: list[Record], spec: str) -> list[Record]:
    """The lines of an estimator's search, by number."""
    mine = [r for r in records if r["phase"] == "search" and r["estimator"] == spec]
    return sorted(mine, key=lambda record: record["number"])
