"""Polynomial programming: fit the law of binary variables to mean_l |x_l - 0.45|^p with each estimator.

The table shows the true expected loss, in closed form, beside the loss that the estimator's own samples had: a sampler
whose law is biased flatters itself.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
from pydantic import AfterValidator, TypeAdapter

from catreparam.experiments.closed_form.loop import (
    Descent,
    Groups,
    Say,
    descend,
    gap_curves,
    level,
    rows_by_gap,
    say_nothing,
)
from catreparam.experiments.runs.cells import run_cells
from catreparam.experiments.runs.configs import check_distinct, check_seeds, command_of, config_of_folder
from catreparam.experiments.runs.estimator_specs import MAIN_ESTIMATORS, normalise_specs
from catreparam.experiments.runs.folder import Record, RunFolder, finish
from catreparam.experiments.runs.records import Count, Number, line
from catreparam.objectives.polynomial import Polynomial
from catreparam.report import Column, Plot, Report, Table
from catreparam.validation import check_count, check_number

FLOOR = 1e-8  # of the logarithmic plots

COLUMNS = (
    Column("estimator", "estimator"),
    Column("gap", "true loss above optimum", ".6f", "gap_ci", lowest_is_best=True),
    Column("difference", "difference to the best", ".6f", "difference_ci"),
    Column("true_loss", "true loss", ".5f"),
    Column("own_loss", "its samples' loss", ".5f"),
    Column("steps_to_one_percent", "steps to within 1 %", ".0f", lowest_is_best=True),
    Column("milliseconds", "ms / step", ".2f"),
    Column("seeds", "seeds"),
)
NOTE = (
    "True loss: E[loss] under softmax(logits), closed form, after the last step. Its samples' loss: mean over the last "
    "tenth of the steps. Steps to within 1 %: first step at which the true loss is within 1 % of the start's distance "
    "to the optimum (– : never). ± is half the 95 % interval over three seeds or more; differences to the best are "
    "paired by seed. Times are of this run and not interleaved."
)


@dataclass(frozen=True)
class Config:
    """What to optimise. The defaults are the paper's protocol with three seeds."""

    estimators: tuple[str, ...] = MAIN_ESTIMATORS
    """Names, each with hyperparameters if wanted: redge:num_steps=4,t1=0.5."""
    powers: tuple[float, ...] = (1.5, 2.0, 3.0)
    """p, one table for each."""
    extension: str = "power"
    """power | linear: the loss between the vertices."""
    target: float = 0.45
    """What |x - target|^p is measured from."""
    num_variables: int = 128
    """Binary variables."""
    batch_size: int = 256
    """Rows, which share the logits."""
    num_samples: int = 1
    """Draws per row of the batch and step; estimators that need more (rloo: 2) take the fewest they can."""
    num_steps: int = 1000
    """Steps of Adam."""
    lr: float = 0.05
    """Learning rate of Adam."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run for each estimator, p and seed."""
    jobs: int = 1
    """Runs side by side, each on one thread."""
    folder: Path | None = None
    """Run folder; default runs/polynomial. The same command resumes there."""

    def checked(self) -> "Config":
        """This config with estimators in one spelling. Raises ValueError or TypeError naming the bad value."""
        for name in ("num_variables", "batch_size", "num_samples", "num_steps", "jobs"):
            check_count(name, getattr(self, name))
        check_number("lr", self.lr, above=0.0)
        check_distinct("powers", self.powers)
        check_seeds("seeds", self.seeds)
        for power in self.powers:
            Polynomial(power, self.target, self.extension)
        return dataclasses.replace(self, estimators=normalise_specs(self.estimators))


@line
class Optimised(Descent):
    """A run of Adam."""

    power: Number
    estimator: str
    seed: int
    steps_to_one_percent: Count | None


LINES = TypeAdapter(Annotated[Optimised, AfterValidator(level)])

PRESETS = {"paper": Config(), "quick": Config(num_steps=200, seeds=(0,), folder=Path("runs/polynomial-quick"))}


def run(config: Config) -> Report:
    """Runs what is not done yet, writes the report into the run folder and returns it."""
    config = config.checked()
    cells = itertools.product(config.powers, config.estimators, config.seeds)
    keys: list[Record] = [dict(zip(("power", "estimator", "seed"), cell, strict=True)) for cell in cells]
    with run_cells("polynomial", config, keys, optimise, config.folder or Path("runs/polynomial"), LINES) as folder:
        return _write_report(config, folder)


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew and returns it. Runs nothing."""
    config, folder = config_of_folder(Config, path, LINES)
    return _write_report(config, folder)


def optimise(config: Config, power: float, estimator: str, seed: int, say: Say = say_nothing) -> Record:
    """One run of Adam from uniform logits, as `descend` tells it."""
    objective = Polynomial(power, config.target, config.extension)
    return descend(
        torch.zeros(config.num_variables, 2),
        lambda estimate, logits: estimate(objective, logits.expand(config.batch_size, -1, -1)).mean(),
        lambda logits: float(objective.expected(logits)) - objective.optimum,
        estimator=estimator,
        num_samples=config.num_samples,
        num_steps=config.num_steps,
        lr=config.lr,
        seed=seed,
        say=say,
        to_one_percent=True,
    )


def _write_report(config: Config, folder: RunFolder) -> Report:
    records = folder.read_metrics()
    groups = {
        power: {s: [r for r in records if (r["power"], r["estimator"]) == (power, s)] for s in config.estimators}
        for power in config.powers
    }
    rows = [row for power in config.powers for row in _rows(config, power, groups[power])]
    report = Report(
        title=f"Polynomial programming ({config.extension} extension)",
        summary=f"{config.num_variables} binary variables, {config.num_steps} steps of Adam on batches of "
        f"{config.batch_size} with {config.num_samples} draw(s) each, or the fewest that an estimator takes.",
        table=Table(COLUMNS, rows, NOTE, group="problem"),
        plots=[_plot(power, groups[power]) for power in config.powers],
        facts={"machine": folder.machine, "seeds": ", ".join(map(str, config.seeds))},
        command=command_of("catreparam run polynomial", config),
    )
    return finish(folder, report)


def _rows(config: Config, power: float, groups: Groups) -> list[Record]:
    optimum = Polynomial(power, config.target, config.extension).optimum

    def more(runs: list[Record], gap: float) -> Record:
        steps = [r["steps_to_one_percent"] for r in runs]
        return {
            "problem": f"p = {power:g}, optimum {optimum:.5f}",
            "true_loss": gap + optimum,
            "steps_to_one_percent": fmean(steps) if None not in steps else None,
        }

    return rows_by_gap(groups, more)


def _plot(power: float, groups: Groups) -> Plot:
    curves, note = gap_curves(groups, floor=FLOOR), "Mean over seeds; the band is the 95 % interval."
    return Plot(f"p = {power:g}", "step", "true loss above optimum", curves, note, log_y=True)
