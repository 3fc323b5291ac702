"""Train a categorical VAE on digits with one estimator, or with several side by side.

Every estimator sees the same initial weights and the same batches for the same seed. Negative ELBOs on training,
validation and test images are always measured with exact draws, never with an estimator's own law.
"""

import contextlib
from functools import partial
from pathlib import Path

from catreparam.data import ImageDataset, load_dataset
from catreparam.experiments.runs.configs import config_of_folder, identity_of
from catreparam.experiments.runs.folder import Interrupted, RunFolder, open_run_folder
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.parallel import run_side_by_side
from catreparam.experiments.runs.progress import Progress, show_progress
from catreparam.experiments.vae.config import PRESETS, Config
from catreparam.experiments.vae.report import report_vae
from catreparam.experiments.vae.run import LINES, is_finished, tasks_of, train_task
from catreparam.experiments.vae.team import Team, check_team, join_team
from catreparam.report import Report

__all__ = ["PRESETS", "Config", "report_folder", "run"]


def run(config: Config) -> Report:
    """Trains whatever is not trained yet, writes the report into the run folder, and returns it.

    Under torchrun the processes train every model together.

    Raises: Interrupted on Ctrl-C, with the report of what there is, already written; MissingData, RunFolderError,
        WriteFailed as their names say.
    """
    config = config.checked()
    dataset = load_dataset(config.dataset)
    team = join_team(config.device)
    if team.size > 1:
        return _run_in_team(config, dataset, team)
    facts = {"machine": describe_machine(config.device, config.jobs)}
    identity = identity_of(config)
    with open_run_folder(config.run_folder(), experiment="vae", config=identity, facts=facts, lines=LINES) as folder:
        try:
            _train_all(config, folder)
        except KeyboardInterrupt:
            raise Interrupted(report_vae(config, dataset, folder), folder.path) from None
        return report_vae(config, dataset, folder)


def _run_in_team(config: Config, dataset: ImageDataset, team: Team) -> Report:
    """As `run`, in every process of a team; the first one holds the folder, and all return its report."""
    check_team(config.estimators, config.jobs)
    path = config.run_folder()
    facts = {"machine": f"{describe_machine(config.device)}, {team.size} processes"}
    with contextlib.ExitStack() as stack:
        if team.rank == 0:
            identity = identity_of(config)
            opened = open_run_folder(path, experiment="vae", config=identity, facts=facts, lines=LINES)
            stack.enter_context(opened)
        team.agree(path.exists)  # nobody looks into the folder before it is there
        progress = stack.enter_context(show_progress()) if team.rank == 0 else Progress()
        for task in tasks_of(config, path):
            train_task(task, progress, team)
        return team.agree(lambda: report_vae(config, dataset, RunFolder(path, LINES)))


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew, from its metrics and checkpoints, and returns it. Trains nothing."""
    config, folder = config_of_folder(Config, path, LINES)
    return report_vae(config, load_dataset(config.dataset), folder)


def _train_all(config: Config, folder: RunFolder) -> None:
    tasks = tasks_of(config, folder.path)
    with show_progress() as progress:
        if config.jobs == 1:
            for task in tasks:
                train_task(task, progress)
            return
        progress.start("runs", total=len(tasks), done=sum(map(is_finished, tasks)))
        train = partial(train_task, progress=Progress())
        for task, note in run_side_by_side(train, tasks, jobs=config.jobs, is_done=is_finished, say=progress.say):
            progress.advance("runs", f"{task.name}: {note}")
