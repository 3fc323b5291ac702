"""What a sweep is made of: the study that it tunes, its folder, and the hyperparameters that it has chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from catreparam.estimators.facts import Space
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.sweep.config import SweepConfig
from catreparam.experiments.sweep.spaces import space_of
from catreparam.report import ImageGrid

Say = Callable[[int, float], None]  # step and validation value so far


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
