"""What all sweeps share: a search per estimator by Optuna, then the best setting of each with fresh seeds.

The search only sees validation values; test values are measured for the chosen settings, with seeds of their own. Every
trial is one line of metrics.jsonl, written durably before its worker takes another one.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from catreparam.experiments.runs.cells import Cell, measure_cells
from catreparam.experiments.runs.configs import config_of_folder, identity_of
from catreparam.experiments.runs.folder import Interrupted, Record, RunFolder, finish, open_run_folder
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.progress import Progress, show_progress
from catreparam.experiments.runs.training import Diverged
from catreparam.experiments.sweep.chosen import (
    chosen_for,
    drop_other_finals,
    other_finals,
    read_settings,
    refuse_other_settings,
    settings_of_finals,
    write_settings,
)
from catreparam.experiments.sweep.config import Config, SweepConfig
from catreparam.experiments.sweep.plan import LINES, Study, Sweep
from catreparam.experiments.sweep.report import build_report
from catreparam.experiments.sweep.search import Pruned, Search
from catreparam.experiments.sweep.spaces import spec_at
from catreparam.report import Report


def run_sweep(config: SweepConfig, study: Study) -> Report:
    """Runs every trial that is not done, then the final runs, writes the report and returns it.

    Raises: Interrupted on Ctrl-C, with the report of what there is; RunFolderError if another sweep runs in the folder
        or it holds something else; WriteFailed when the disk is full. The same command goes on after each of them.
        ValueError if the file of settings is not one, of another study, or lacks an estimator.
    """
    name, path = f"sweep-{study.name}", config.folder or Path(f"runs/sweep-{study.name}")
    given = read_settings(config.settings, study.name, config.estimators) if config.settings else None
    sweep = Sweep(config, study, path.resolve(), given)
    facts = {"machine": describe_machine(jobs=config.jobs)}
    with open_run_folder(path, experiment=name, config=identity_of(config), facts=facts, lines=LINES) as folder:
        refuse_other_settings(sweep, folder)
        try:
            with show_progress() as progress:
                _run_phase("search", sweep, progress)
                if others := drop_other_finals(sweep, folder):
                    progress.say(f"the search now chooses other settings than {others} final runs had; they run again")
                _run_phase("final", sweep, progress)
        except KeyboardInterrupt:
            raise Interrupted(_write_report(sweep, folder), folder.path) from None
        return _write_report(sweep, folder)


def report_sweep(kind: type[Config], study_of: Callable[[Config], Study], path: Path) -> Report:
    """Writes the report of a sweep's folder anew and returns it. Runs nothing.

    Settings that were given are those of the folder's lines: their file may have changed since.
    """
    config, folder = config_of_folder(kind, path, LINES)
    given = settings_of_finals(folder) if config.settings else None
    return _write_report(Sweep(config, study_of(config), path.resolve(), given), folder)


def trials_of(sweep: Sweep, phase: str) -> list[Cell]:
    """The search trials by number, none if the settings are given; or the final runs by seed.

    All estimators have one before any has its next.
    """
    config = sweep.config
    searches = range(config.num_trials if sweep.given is None else 0)
    numbers = searches if phase == "search" else config.seeds
    return [
        Cell(sweep, {"phase": phase, "estimator": spec, "number": number}, measure_trial, sweep.folder)
        for number, spec in itertools.product(numbers, config.estimators)
        if phase == "final" or number == 0 or sweep.space(spec)  # without a space there is one point
    ]


def measure_trial(sweep: Sweep, phase: str, estimator: str, number: int) -> Record:
    """The values of a search trial, or of a final run; `state` says how it went."""
    return _search(sweep, estimator, number) if phase == "search" else _final(sweep, estimator, number)


def _run_phase(phase: str, sweep: Sweep, progress: Progress) -> None:
    config, cells = sweep.config, trials_of(sweep, phase)
    engine = {"jobs": config.jobs, "engine": config.engine, "address": config.address}
    for cell, record in measure_cells(phase, cells, progress, **engine):
        name = f"{cell.key['estimator']} · {'seed' if phase == 'final' else 'trial'} {cell.key['number']}"
        went = record["state"] if record else "done"  # clusters do not bring lines
        value = f", validation {record['validation']:.4g}" if record and "validation" in record else ""
        progress.advance(phase, f"{name}: {went}{value}")


def _search(sweep: Sweep, estimator: str, number: int) -> Record:
    search = Search(sweep, estimator, number)
    record: Record = {"point": search.point}
    try:
        record |= {"state": "complete", "validation": _validation(sweep, estimator, search)}
    except Pruned:
        record |= {"state": "pruned"}
    except Diverged as error:
        record |= {"state": "diverged", "reason": str(error)}
    return record | search.said()


def _validation(sweep: Sweep, estimator: str, search: Search) -> float:
    """The mean over the search seeds; the first of them decides whether the trial goes on."""
    spec, lr = spec_at(estimator, search.point), sweep.lr_at(search.point)
    first, *others = sweep.config.search_seeds
    values = [sweep.study.search(spec, lr, first, search.say)]
    values += [sweep.study.search(spec, lr, seed, lambda step, value: None) for seed in others]
    return fmean(values)


def _final(sweep: Sweep, estimator: str, seed: int) -> Record:
    chosen = chosen_for(sweep, RunFolder(sweep.folder, LINES).read_metrics(), estimator)
    if chosen is None:
        return {"state": "no setting: every search trial diverged"}
    record: Record = {"spec": chosen.spec, "lr": chosen.lr, "state": "complete"}
    try:
        return record | sweep.study.final(chosen.spec, chosen.lr, seed, sweep.folder)
    except Diverged as error:
        return record | {"state": "diverged", "reason": str(error)}


def _write_report(sweep: Sweep, folder: RunFolder) -> Report:
    report = build_report(sweep, folder)
    if sweep.given is None:
        write_settings(sweep, folder, report.command)
    missing = sum(not trial.is_measured() for trial in [*trials_of(sweep, "search"), *trials_of(sweep, "final")])
    missing += len(other_finals(sweep, folder.read_metrics()))
    return finish(folder, report, unfinished=f"{missing} trials to go" if missing else "")
