"""What all sweeps share: a search per estimator by Optuna, then the best setting of each with fresh seeds.

The search only sees validation values; test values are measured for the chosen settings, with seeds of their own. Every
trial is one line of metrics.jsonl, written durably before its worker takes another one.
"""

import dataclasses
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catreparam.experiments.runs.configs import config_of_folder, identity_of
from catreparam.experiments.runs.estimator_specs import MAIN_ESTIMATORS, normalise_specs
from catreparam.experiments.runs.finish import finish
from catreparam.experiments.runs.folder import Interrupted, RunFolder, open_run_folder
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.parallel import ENGINES, run_side_by_side
from catreparam.experiments.runs.progress import Progress, show_progress
from catreparam.experiments.sweep.chosen import Settings, read_settings, refuse_other_settings, write_settings
from catreparam.experiments.sweep.report import build_report
from catreparam.experiments.sweep.spaces import space_of
from catreparam.experiments.sweep.trials import PRUNERS, SAMPLERS, Trial, is_recorded, run_trial, settle
from catreparam.report import Report
from catreparam.validation import check_choice, check_count, check_number


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

    def checked(self) -> "SweepConfig":
        """This config with estimators in one spelling. Raises ValueError or TypeError naming the bad value."""
        check_count("num_trials", self.num_trials)
        check_count("jobs", self.jobs)
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("pruner", self.pruner, PRUNERS)
        check_choice("engine", self.engine, ENGINES)
        low, high = (check_number("lr_range", value, above=0.0) for value in self.lr_range)
        if low > high:
            raise ValueError(f"lr_range must be two numbers, the smaller first, got {self.lr_range}")
        for name in ("seeds", "search_seeds"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must be different integers, got {values}")
        if not self.search_seeds:
            raise ValueError("search_seeds must name at least one seed")
        if self.settings and not self.seeds:
            raise ValueError("nothing to do: --settings leaves out the search and no --seeds the final runs")
        if both := sorted(set(self.seeds) & set(self.search_seeds)):
            raise ValueError(f"seeds and search_seeds must differ, both hold {both}")
        return dataclasses.replace(self, estimators=normalise_specs(self.estimators))


@dataclass(frozen=True)
class Sweep:
    """A checked sweep in its folder: what a worker needs to know. `study` makes and measures one run (see Study)."""

    config: SweepConfig
    study: Any = field(hash=False)
    folder: Path
    settings: Settings | None = field(default=None, hash=False)

    def searches(self) -> list[Trial]:
        """All search trials, one of every estimator before the next; none if the settings are given."""
        if self.settings is not None:
            return []
        numbers = itertools.product(range(self.config.num_trials), self.config.estimators)
        return [Trial(self, "search", spec, number) for number, spec in numbers if number < self.needed(spec)]

    def finals(self) -> list[Trial]:
        """All final runs, all estimators of a seed before the next seed."""
        return [
            Trial(self, "final", spec, seed)
            for seed, spec in itertools.product(self.config.seeds, self.config.estimators)
        ]

    def needed(self, spec: str) -> int:
        """Search trials that an estimator needs: one if there is nothing to search."""
        return self.config.num_trials if space_of(spec, self.config.lr_range, self.study.lr) else 1


def run_sweep(config: Any, study: Any) -> Report:
    """Runs every trial that is not done, then the final runs, writes the report and returns it.

    Raises: Interrupted on Ctrl-C, with the report of what there is; RunFolderError if another sweep runs in the folder or
        it holds something else; WriteFailed when the disk is full. The same command goes on after each of them.
        ValueError if the file of settings is not one, of another study, or lacks an estimator.
    """
    path = config.folder or Path(f"runs/sweep-{study.name}")
    settings = read_settings(config.settings, study.name, config.estimators) if config.settings else None
    facts = {"machine": describe_machine(jobs=config.jobs)}
    name = f"sweep-{study.name}"
    with open_run_folder(path, experiment=name, config=identity_of(config), facts=facts) as folder:
        sweep = Sweep(config, study, folder.path.resolve(), settings)
        if settings is not None:
            refuse_other_settings(folder, settings)
        try:
            with show_progress() as progress:
                _settle_all(sweep)
                _run_phase("search", sweep, sweep.searches(), progress)
                _settle_all(sweep)  # a worker may have been lost between its line and its word to Optuna
                _run_phase("final", sweep, sweep.finals(), progress)
        except KeyboardInterrupt:
            raise Interrupted(_write_report(sweep, folder), folder.path) from None
        return _write_report(sweep, folder)


def report_sweep(kind: type, study_of: Any, path: Path) -> Report:
    """Writes the report of a sweep's folder anew and returns it. Runs nothing."""
    config, folder = config_of_folder(kind, path)
    config = config.checked()
    study = study_of(config)
    settings = read_settings(config.settings, study.name, config.estimators) if config.settings else None
    return _write_report(Sweep(config, study, folder.path.resolve(), settings), folder)


def _settle_all(sweep: Sweep) -> None:
    for spec in sweep.config.estimators:
        settle(sweep, spec)


def _run_phase(name: str, sweep: Sweep, trials: list[Trial], progress: Progress) -> None:
    left = [trial for trial in trials if not is_recorded(trial)]
    progress.start(name, total=len(trials), done=len(trials) - len(left))
    config = sweep.config
    results = run_side_by_side(
        run_trial,
        left,
        jobs=config.jobs,
        is_done=is_recorded,
        engine=config.engine,
        address=config.address,
        say=progress.say,
    )
    for trial, note in results:
        progress.advance(name, f"{trial.name}: {note or 'done'}")  # clusters do not bring notes


def _write_report(sweep: Sweep, folder: RunFolder) -> Report:
    unfinished = [trial for trial in [*sweep.searches(), *sweep.finals()] if not is_recorded(trial)]
    report = build_report(sweep, folder)
    if sweep.settings is None:
        write_settings(sweep, folder, report.command)
    return finish(folder, report, unfinished=f"{len(unfinished)} trials to go" if unfinished else "")
