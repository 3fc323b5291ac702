"""One trial of a sweep, in whichever process it runs: choose a point, run the study there, write the line.

A trial's lock dies with its process, so a trial is never made twice: whoever gets the lock looks whether the line is
there.
"""

from statistics import fmean

from catreparam.experiments.runs.folder import Record, RunFolder
from catreparam.experiments.runs.training import Diverged
from catreparam.experiments.sweep.chosen import chosen_for
from catreparam.experiments.sweep.search import Pruned, Search
from catreparam.experiments.sweep.spaces import spec_at
from catreparam.experiments.sweep.trial import Trial


def run_trial(trial: Trial) -> str:
    """Makes the trial and its line, unless a worker that outlived its driver did so meanwhile; returns how it went."""
    with trial.lock():
        if trial.is_recorded():
            return "done before"
        record: Record = {"phase": trial.phase, "estimator": trial.estimator, "number": trial.number}
        record |= _search(trial) if trial.phase == "search" else _final(trial)
        RunFolder(trial.sweep.folder).append_metrics(record)
        validation = f", validation {record['validation']:.4g}" if "validation" in record else ""
        return record["state"] + validation


def _search(trial: Trial) -> Record:
    search = Search(trial)
    record: Record = {"point": search.point}
    try:
        record |= {"state": "complete", "validation": _validation(trial, search)}
    except Pruned:
        record |= {"state": "pruned"}
    except Diverged as error:
        record |= {"state": "diverged", "reason": str(error)}
    return record | search.said()


def _validation(trial: Trial, search: Search) -> float:
    """The mean over the search seeds; the first of them decides whether the trial goes on."""
    sweep, spec = trial.sweep, spec_at(trial.estimator, search.point)
    first, *others = sweep.config.search_seeds
    lr = sweep.lr_at(search.point)
    values = [sweep.study.search(spec, lr, first, search.say)]
    values += [sweep.study.search(spec, lr, seed, lambda step, value: None) for seed in others]
    return fmean(values)


def _final(trial: Trial) -> Record:
    sweep = trial.sweep
    chosen = chosen_for(sweep, RunFolder(sweep.folder).read_metrics(), trial.estimator)
    if chosen is None:
        return {"state": "no setting: every search trial diverged"}
    record: Record = {"spec": chosen.spec, "lr": chosen.lr, "state": "complete"}
    try:
        return record | sweep.study.final(chosen.spec, chosen.lr, trial.number, sweep.folder)
    except Diverged as error:
        return record | {"state": "diverged", "reason": str(error)}
