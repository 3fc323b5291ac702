"""Optuna's part of a search: which point a trial tries, and when it has fallen behind.

The lines of metrics.jsonl are the only truth. Optuna's study of an estimator is made from them, in memory, and again
whenever there are more of them: there is no second store that could disagree after a kill.
"""

import math
import warnings

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from catreparam.estimators.facts import Choice, Range
from catreparam.experiments.runs.folder import Record, RunFolder
from catreparam.experiments.runs.streams import stream
from catreparam.experiments.sweep.plan import LINES, Sweep, searched
from catreparam.experiments.sweep.spaces import start_of

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "diverged": TrialState.FAIL}


class Pruned(Exception):
    """The pruner stopped the trial."""


class Search:
    """One trial among those of its estimator: its `point`, and what it says on the way."""

    def __init__(self, sweep: Sweep, estimator: str, number: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.sweep, self.estimator, self.number = sweep, estimator, number
        self.pruner = _pruner(sweep)
        self.space = {name: _distribution(values) for name, values in sweep.space(estimator).items()}
        self.records = self._read()
        self.study = self._study(create_trial(state=TrialState.WAITING))
        self.asked = self.study.ask(self.space)
        self.point: Record = self.asked.params

    def say(self, step: int, value: float) -> None:
        """Takes a validation value on the way. Raises Pruned if the trial has fallen behind."""
        self.asked.report(value, step)
        records = self._read()
        if len(records) > len(self.records):  # other workers have finished trials meanwhile
            own = self._own()
            self.records = records
            said = {"intermediate_values": own.intermediate_values, "system_attrs": own.system_attrs}
            self.study = self._study(create_trial(state=TrialState.WAITING, **said))
            self.asked = self.study.ask()
        if self.asked.should_prune():
            raise Pruned

    def said(self) -> Record:
        """What later trials need to know of this one: its values on the way, and the rungs that hyperband gave it."""
        own = self._own()
        values = [[step, value if math.isfinite(value) else None] for step, value in own.intermediate_values.items()]
        return {"reported": values} | ({"rungs": own.system_attrs} if own.system_attrs else {})

    def _study(self, own: FrozenTrial) -> optuna.Study:
        """Optuna's study of the estimator: trials have the numbers of ours, those without a line are running."""
        sampler = _sampler(self.sweep, self.estimator, self.number)
        study = optuna.create_study(study_name=self.estimator, sampler=sampler, pruner=self.pruner)
        known = {record["number"]: _told(record, self.space) for record in self.records}
        known[self.number] = own
        for number in range(max(known) + 1):
            study.add_trial(known.get(number) or create_trial(state=TrialState.RUNNING))
        return study

    def _own(self) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[self.number]

    def _read(self) -> list[Record]:
        return searched(RunFolder(self.sweep.folder, LINES).read_metrics(), self.estimator)


def _told(record: Record, space: dict[str, BaseDistribution]) -> FrozenTrial | None:
    """A line as Optuna's trial; None for a point outside of the space, which another version has searched."""
    try:
        return create_trial(
            state=STATES[record["state"]],
            value=record.get("validation"),
            params=record["point"],
            distributions=space,
            intermediate_values={s: math.nan if v is None else v for s, v in record.get("reported", [])},
            system_attrs=record.get("rungs"),
        )
    except ValueError:
        return None


def _distribution(values: Range | Choice) -> BaseDistribution:
    if isinstance(values, Choice):
        return CategoricalDistribution(values.values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _sampler(sweep: Sweep, spec: str, number: int) -> BaseSampler:
    seed = stream(number, f"sampler {spec} {sweep.config.search_seeds}").initial_seed() % 2**32
    base = RandomSampler(seed=seed) if sweep.config.sampler == "random" else TPESampler(seed=seed, n_startup_trials=5)
    if number > 0:
        return base
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls this sampler experimental
        return PartialFixedSampler(start_of(sweep.space(spec)), base)


def _pruner(sweep: Sweep) -> BasePruner:
    steps, pruner = sweep.study.num_steps, sweep.config.pruner
    if pruner == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=steps // 4)
    if pruner == "hyperband":
        return HyperbandPruner(min_resource=max(1, steps // 9), max_resource=steps)
    return NopPruner()
