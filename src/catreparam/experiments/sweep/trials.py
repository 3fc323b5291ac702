"""One trial of a sweep, in whichever process it runs: ask Optuna for a point, train, write the line, tell Optuna.

metrics.jsonl is what counts; Optuna's own storage, a journal per estimator in the same folder, follows it. A trial's lock
dies with its process, so a trial is never made twice: whoever gets the lock looks whether the line is there.
"""

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from filelock import FileLock, Timeout

from catreparam.experiments.runs.folder import Record, RunFolder, drop_cut_line
from catreparam.experiments.runs.training import Diverged
from catreparam.experiments.sweep.spaces import space_of, spec_at, start_of, suggest

Say = Callable[[int, float], None]  # step and validation value so far

SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "hyperband", "none")


class Pruned(Exception):
    """The pruner stopped the trial."""


class Study(Protocol):
    """What a sweep needs of a study. Instances are picklable."""

    name: str
    lr: float

    def search(self, spec: str, lr: float, seed: int, say: Say) -> float:
        """One run on the tuning split; returns its validation value, lower is better, and says it on the way."""
        ...

    def final(self, spec: str, lr: float, seed: int, folder: Path) -> Record:
        """One run with `validation`, `test`, further values, and `curves`: {"step": [...], name: [...]}."""
        ...

    def num_steps(self) -> int:
        """How often `search` says a value: the resource of hyperband."""
        ...


@dataclass(frozen=True)
class Trial:
    """A search trial by its number, or a final run by its seed."""

    sweep: Any = field(hash=False, repr=False)
    phase: str
    estimator: str
    number: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.estimator} · {'seed' if self.phase == 'final' else 'trial'} {self.number}"

    def owns(self, record: Record) -> bool:
        """Whether a line of the metrics is of this trial."""
        return all(record.get(key) == getattr(self, key) for key in ("phase", "estimator", "number"))

    def lock(self) -> FileLock:
        """Held by whoever works on the trial."""
        folder = self.sweep.folder / "locks"
        folder.mkdir(exist_ok=True)
        return FileLock(folder / f"{_file_name(self.estimator)}-{self.phase}-{self.number}.lock")


def run_trial(trial: Trial) -> str:
    """Makes the trial and its line, unless a worker that outlived its driver did so meanwhile; returns how it went."""
    with trial.lock():
        if is_recorded(trial):
            return "done before"
        record = _search(trial) if trial.phase == "search" else _final(trial)
        return (
            f"{record['state']}, validation {record['validation']:.4g}" if "validation" in record else record["state"]
        )


def is_recorded(trial: Trial) -> bool:
    """Whether the trial has its line."""
    return any(map(trial.owns, RunFolder(trial.sweep.folder).read_metrics()))


def best_of(sweep: Any, records: list[Record], spec: str) -> Record | None:
    """The search trial with the lowest validation value that ran to its end; the earliest of equals."""
    mine = [r for r in records if r["phase"] == "search" and r["estimator"] == spec and r["state"] == "complete"]
    return min(mine, key=lambda record: (record["validation"], record["number"]), default=None)


def setting_of(sweep: Any, records: list[Record], spec: str) -> Record | None:
    """What an estimator's final runs use: {"spec", "lr"}, given with the sweep or the best of its search; None without."""
    if sweep.settings is not None:
        return sweep.settings[spec]
    best = best_of(sweep, records, spec)
    if best is None:
        return None
    lr = best["point"].get("lr", sweep.config.lr_range[0])
    return {"spec": spec_at(spec, best["point"]), "lr": lr, "validation": best["validation"], "trial": best["number"]}


def settle(sweep: Any, spec: str) -> None:
    """Brings Optuna's journal in line with metrics.jsonl after a kill: no trial of a dead worker stays running."""
    path = _journal_path(sweep, spec)
    if not path.exists():
        return
    drop_cut_line(path)
    records = RunFolder(sweep.folder).read_metrics()
    study = open_study(sweep, spec)
    for running in study.get_trials(deepcopy=False, states=(_states().RUNNING,)):
        trial = Trial(sweep, "search", spec, running.user_attrs.get("number", -1))
        with contextlib.suppress(Timeout), trial.lock().acquire(timeout=0):  # else a worker is still at it
            record = next((r for r in records if trial.owns(r)), None)
            _tell(study, running.number, record)


def open_study(sweep: Any, spec: str, number: int = 0) -> Any:
    """Optuna's study of one estimator, made if need be, with the sampler of one trial."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = _journal_path(sweep, spec)
    path.parent.mkdir(exist_ok=True)
    lock: Any = FileLock(f"{path}.lock")  # unlike Optuna's own, it dies with its process
    return optuna.create_study(
        study_name=spec,
        storage=JournalStorage(JournalFileBackend(str(path), lock_obj=lock)),
        sampler=_sampler(sweep, spec, number),
        pruner=_pruner(sweep),
        load_if_exists=True,
    )


def _search(trial: Trial) -> Record:
    sweep, study = trial.sweep, open_study(trial.sweep, trial.estimator, trial.number)
    for running in study.get_trials(deepcopy=False, states=(_states().RUNNING,)):
        if running.user_attrs.get("number") == trial.number:  # we hold its lock: whoever ran it is dead
            _tell(study, running.number, None)
    asked = study.ask()
    asked.set_user_attr("number", trial.number)
    point = suggest(asked, space_of(trial.estimator, sweep.config.lr_range, sweep.study.lr))
    record: Record = {"phase": "search", "estimator": trial.estimator, "number": trial.number, "point": point}
    try:
        record |= {"state": "complete", "validation": _search_value(trial, point, asked)}
    except Pruned:
        record |= {"state": "pruned"}
    except Diverged as error:
        record |= {"state": "diverged", "reason": str(error)}
    RunFolder(sweep.folder).append_metrics(record)
    _tell(study, asked.number, record)
    return record


def _search_value(trial: Trial, point: Record, asked: Any) -> float:
    config, study, values = trial.sweep.config, trial.sweep.study, []
    for seed in config.search_seeds:

        def say(step: int, value: float, first: bool = seed == config.search_seeds[0]) -> None:
            if first:
                asked.report(value, step)
                if asked.should_prune():
                    raise Pruned

        spec, lr = spec_at(trial.estimator, point), point.get("lr", config.lr_range[0])
        values.append(study.search(spec, lr, seed, say))
    return fmean(values)


def _final(trial: Trial) -> Record:
    sweep = trial.sweep
    setting = setting_of(sweep, RunFolder(sweep.folder).read_metrics(), trial.estimator)
    record: Record = {"phase": "final", "estimator": trial.estimator, "number": trial.number}
    if setting is None:
        record |= {"state": "no setting: every search trial diverged"}
    else:
        spec, lr = setting["spec"], setting["lr"]
        record |= {"spec": spec, "lr": lr, "state": "complete"}
        try:
            record |= sweep.study.final(spec, lr, trial.number, sweep.folder)
        except Diverged as error:
            record |= {"state": "diverged", "reason": str(error)}
    RunFolder(sweep.folder).append_metrics(record)
    return record


def _tell(study: Any, number: int, record: Record | None) -> None:
    states = {"complete": _states().COMPLETE, "pruned": _states().PRUNED}
    state = states.get(record["state"], _states().FAIL) if record else _states().FAIL
    study.tell(number, record["validation"] if record and "validation" in record else None, state=state)


def _sampler(sweep: Any, spec: str, number: int) -> Any:
    from optuna.samplers import PartialFixedSampler, RandomSampler, TPESampler

    from catreparam.experiments.runs.streams import stream

    seed = stream(number, f"sampler {spec} {sweep.config.search_seeds}").initial_seed() % 2**32
    base = RandomSampler(seed=seed) if sweep.config.sampler == "random" else TPESampler(seed=seed, n_startup_trials=5)
    if number > 0:
        return base
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls this sampler experimental
        return PartialFixedSampler(start_of(space_of(spec, sweep.config.lr_range, sweep.study.lr)), base)


def _pruner(sweep: Any) -> Any:
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    steps = sweep.study.num_steps()
    if sweep.config.pruner == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=steps // 4)
    if sweep.config.pruner == "hyperband":
        return HyperbandPruner(min_resource=max(1, steps // 9), max_resource=steps)
    return NopPruner()


def _states() -> Any:
    from optuna.trial import TrialState

    return TrialState


def _journal_path(sweep: Any, spec: str) -> Path:
    return sweep.folder / "optuna" / f"{_file_name(spec)}.log"


def _file_name(spec: str) -> str:
    return spec.replace(":", "-").replace(",", "-").replace("/", "_")
