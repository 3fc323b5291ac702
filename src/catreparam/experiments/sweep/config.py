"""What every sweep can be asked for; each study adds its own options."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from catreparam.experiments.runs.configs import check_seeds
from catreparam.experiments.runs.estimator_specs import MAIN_ESTIMATORS, normalise_specs
from catreparam.experiments.runs.parallel import check_engine
from catreparam.validation import check_choice, check_count, check_number

Config = TypeVar("Config", bound="SweepConfig")

SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "hyperband", "none")


@dataclass(frozen=True)
class SweepConfig:
    """Options of every sweep; each study adds its own config."""

    estimators: tuple[str, ...] = MAIN_ESTIMATORS
    """Names; hyperparameters given here are fixed, the others searched: redge:num_steps=4."""
    num_trials: int = 20
    """Trials per estimator in the search; the first one has the default hyperparameters."""
    search_seeds: tuple[int, ...] = (1000,)
    """Seeds of every search trial; its value is the mean over them. Different from the final seeds."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the final runs, with each estimator's best setting. Without any, the sweep ends with the search."""
    settings: Path | None = None
    """The settings.json of an earlier sweep: its best settings are used, nothing is searched."""
    lr_range: tuple[float, float] = (2e-4, 5e-3)
    """Learning rates searched, on a logarithmic scale; twice the same number fixes it."""
    sampler: str = "tpe"
    """tpe | random. With random, and without pruning, the points do not depend on the order of the trials."""
    pruner: str = "median"
    """median | hyperband | none: stops search trials whose validation values fall behind."""
    jobs: int = 1
    """Trials side by side, each in a process of its own on one thread."""
    engine: str = "processes"
    """processes | ray | dask: where trials run. All need the run folder on a file system they share."""
    address: str = ""
    """Of the Ray or Dask cluster: auto or HOST:PORT. None given: a local one."""
    folder: Path | None = None
    """Run folder; default runs/sweep-STUDY. The same command resumes there."""

    def checked(self: Config) -> Config:
        """This config with estimators in one spelling. Raises ValueError or TypeError naming the bad value."""
        check_count("num_trials", self.num_trials)
        check_count("jobs", self.jobs)
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("pruner", self.pruner, PRUNERS)
        check_engine(self.engine)
        low, high = (check_number("lr_range", value, above=0.0) for value in self.lr_range)
        if low > high:
            raise ValueError(f"lr_range must be two numbers, the smaller first, got {self.lr_range}")
        check_seeds("seeds", self.seeds, least=0)
        check_seeds("search_seeds", self.search_seeds)
        if self.settings and not self.seeds:
            raise ValueError("nothing to do: --settings leaves out the search and no --seeds the final runs")
        if both := sorted(set(self.seeds) & set(self.search_seeds)):
            raise ValueError(f"seeds and search_seeds must differ, both hold {both}")
        return dataclasses.replace(self, estimators=normalise_specs(self.estimators, searched=True))


def check_inner(name: str, inner: object, plain: object) -> None:
    """Raises ValueError for fields of the study's config that differ from `plain` and that a sweep sets itself."""
    for key in ("estimators", "seeds", "jobs", "folder", "lr"):
        if getattr(inner, key) != getattr(plain, key):
            instead = "--lr-range" if key == "lr" else f"--{key}"
            raise ValueError(f"a sweep sets {key} itself; use {instead} instead of --{name}.{key}")
