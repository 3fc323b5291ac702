"""What all sweeps share: a search per estimator by Optuna, then the best setting of each with fresh seeds.

The search only sees validation values; test values are measured for the chosen settings, with seeds of their own. Every
trial is one line of metrics.jsonl, written durably before its worker takes another one.
"""

from collections.abc import Callable
from pathlib import Path

from catreparam.experiments.runs.configs import config_of_folder, identity_of
from catreparam.experiments.runs.finish import finish
from catreparam.experiments.runs.folder import Interrupted, RunFolder, open_run_folder
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.parallel import run_side_by_side
from catreparam.experiments.runs.progress import Progress, show_progress
from catreparam.experiments.sweep.chosen import read_settings, refuse_other_settings, write_settings
from catreparam.experiments.sweep.config import Config, SweepConfig
from catreparam.experiments.sweep.report import build_report
from catreparam.experiments.sweep.run import run_trial
from catreparam.experiments.sweep.trial import Study, Sweep, Trial
from catreparam.report import Report


def run_sweep(config: SweepConfig, study: Study) -> Report:
    """Runs every trial that is not done, then the final runs, writes the report and returns it.

    Raises: Interrupted on Ctrl-C, with the report of what there is; RunFolderError if another sweep runs in the folder
        or it holds something else; WriteFailed when the disk is full. The same command goes on after each of them.
        ValueError if the file of settings is not one, of another study, or lacks an estimator.
    """
    name, path = f"sweep-{study.name}", config.folder or Path(f"runs/sweep-{study.name}")
    given = read_settings(config.settings, study.name, config.estimators) if config.settings else None
    facts = {"machine": describe_machine(jobs=config.jobs)}
    with open_run_folder(path, experiment=name, config=identity_of(config), facts=facts) as folder:
        sweep = Sweep(config, study, folder.path.resolve(), given)
        if given is not None:
            refuse_other_settings(folder, given)
        try:
            with show_progress() as progress:
                _run_phase("search", sweep, sweep.searches(), progress)
                _run_phase("final", sweep, sweep.finals(), progress)
        except KeyboardInterrupt:
            raise Interrupted(_write_report(sweep, folder), folder.path) from None
        return _write_report(sweep, folder)


def report_sweep(kind: type[Config], study_of: Callable[[Config], Study], path: Path) -> Report:
    """Writes the report of a sweep's folder anew and returns it. Runs nothing."""
    config, folder = config_of_folder(kind, path)
    config = config.checked()
    study = study_of(config)
    given = read_settings(config.settings, study.name, config.estimators) if config.settings else None
    return _write_report(Sweep(config, study, folder.path.resolve(), given), folder)


def _run_phase(name: str, sweep: Sweep, trials: list[Trial], progress: Progress) -> None:
    left = [trial for trial in trials if not trial.is_recorded()]
    progress.start(name, total=len(trials), done=len(trials) - len(left))
    config = sweep.config
    results = run_side_by_side(
        run_trial,
        left,
        jobs=config.jobs,
        is_done=Trial.is_recorded,
        engine=config.engine,
        address=config.address,
        say=progress.say,
    )
    for trial, note in results:
        progress.advance(name, f"{trial.name}: {note or 'done'}")  # clusters do not bring notes


def _write_report(sweep: Sweep, folder: RunFolder) -> Report:
    report = build_report(sweep, folder)
    if sweep.given is None:
        write_settings(sweep, folder, report.command)
    missing = sum(not trial.is_recorded() for trial in [*sweep.searches(), *sweep.finals()])
    return finish(folder, report, unfinished=f"{missing} trials to go" if missing else "")
