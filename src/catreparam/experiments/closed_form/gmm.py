"""Fit the posterior over the components of a Gaussian mixture with each estimator, beside the exact one.

Every observation has logits of its own; Adam maximises the ELBO with the KL to the uniform prior in closed form. The
table shows how far the fitted law is from the exact posterior: the negative ELBO's gap, which is a KL, and the total
variation, both in closed form.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
from pydantic import AfterValidator, TypeAdapter

from catreparam.categorical import kl_to_uniform
from catreparam.experiments.closed_form.loop import Descent, Say, descend, gap_curves, level, rows_by_gap, say_nothing
from catreparam.experiments.runs.cells import run_cells
from catreparam.experiments.runs.configs import check_seeds, command_of, config_of_folder
from catreparam.experiments.runs.estimator_specs import MAIN_ESTIMATORS, normalise_specs
from catreparam.experiments.runs.folder import Record, RunFolder, finish
from catreparam.experiments.runs.records import Number, line
from catreparam.experiments.runs.statistics import mean_and_interval
from catreparam.objectives.gmm import MixturePosterior
from catreparam.report import Column, Plot, Report, Table
from catreparam.validation import check_count, check_number

COLUMNS = (
    Column("estimator", "estimator"),
    Column("gap", "gap = KL(q ‖ posterior)", ".4f", "gap_ci", lowest_is_best=True),
    Column("difference", "difference to the best", ".4f", "difference_ci"),
    Column("total_variation", "total variation", ".4f", "total_variation_ci", lowest_is_best=True),
    Column("own_loss", "its samples' −ELBO", ".3f"),
    Column("true_loss", "true −ELBO", ".3f"),
    Column("milliseconds", "ms / step", ".2f"),
    Column("seeds", "seeds"),
)
NOTE = (
    "Means over observations, after the last step, in nats; the exact posterior has gap 0. Its samples' −ELBO: as the"
    " estimator's own draws saw it, mean over the last tenth of the steps. ± is half the 95 % interval over three "
    "seeds or more, each with a mixture of its own, the same for all estimators; differences to the best are paired "
    "by seed. Times are of this run and not interleaved."
)
BAND_NOTE = "Mean over observations and seeds; the band is the 95 % interval over seeds, with three or more."


@dataclass(frozen=True)
class Config:
    """What to fit."""

    estimators: tuple[str, ...] = MAIN_ESTIMATORS
    """Names, each with hyperparameters if wanted: redge:num_steps=4,t1=0.5."""
    num_components: int = 20
    """Components, the classes of an observation."""
    num_observations: int = 500
    """Observations, the variables."""
    num_dimensions: int = 2
    """Dimensions of an observation."""
    spread: float = 15.0
    """Standard deviation of the components' means."""
    noise: float = 2.0
    """Standard deviation of an observation around its component's mean."""
    extension: str = "mean"
    """mean | linear: the log-likelihood between the vertices."""
    num_steps: int = 1000
    """Steps of Adam."""
    num_samples: int = 1
    """Draws per observation and step."""
    lr: float = 0.05
    """Learning rate of Adam."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One mixture and one run per seed."""
    jobs: int = 1
    """Runs side by side, each on one thread."""
    folder: Path | None = None
    """Run folder; default runs/gmm. The same command resumes there."""

    def checked(self) -> "Config":
        """This config with estimators in one spelling. Raises ValueError or TypeError naming the bad value."""
        for name in ("num_steps", "num_samples", "jobs"):
            check_count(name, getattr(self, name))
        check_number("lr", self.lr, above=0.0)
        check_seeds("seeds", self.seeds)
        self.mixture(0)
        return dataclasses.replace(self, estimators=normalise_specs(self.estimators))

    def mixture(self, seed: int) -> MixturePosterior:
        """The problem of a seed."""
        sizes = self.num_components, self.num_observations, self.num_dimensions
        return MixturePosterior(*sizes, self.spread, self.noise, self.extension, seed)


@line
class Fit(Descent):
    """A fit and how far it is from the posterior at the end."""

    seed: int
    estimator: str
    total_variation: Number
    true_loss: Number


LINES = TypeAdapter(Annotated[Fit, AfterValidator(level)])

PRESETS = {"paper": Config(), "quick": Config(num_steps=300, seeds=(0, 1), folder=Path("runs/gmm-quick"))}


def run(config: Config) -> Report:
    """Fits what is not fitted yet, writes the report into the run folder and returns it."""
    config = config.checked()
    keys = [{"seed": seed, "estimator": spec} for seed, spec in itertools.product(config.seeds, config.estimators)]
    with run_cells("gmm", config, keys, fit, config.folder or Path("runs/gmm"), LINES) as folder:
        return _write_report(config, folder)


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew and returns it. Runs nothing."""
    config, folder = config_of_folder(Config, path, LINES)
    return _write_report(config, folder)


def fit(config: Config, seed: int, estimator: str, say: Say = say_nothing) -> Record:
    """One fit by Adam from uniform logits, as `descend` tells it, and how far it is from the posterior at the end."""
    mixture = config.mixture(seed)
    logits = torch.zeros(config.num_observations, config.num_components)
    record = descend(
        logits,
        lambda estimate, logits: estimate(mixture, logits) + kl_to_uniform(logits),  # [num_observations]
        lambda logits: float(mixture.gap(logits).mean()),
        estimator=estimator,
        num_samples=config.num_samples,
        num_steps=config.num_steps,
        lr=config.lr,
        seed=seed,
        say=say,
    )
    record["total_variation"] = float(mixture.total_variation(logits.detach()).mean())
    record["true_loss"] = record["gaps"][-1] + float(mixture.negative_log_evidence().mean())
    return record


def _write_report(config: Config, folder: RunFolder) -> Report:
    records = folder.read_metrics()
    groups = {spec: [r for r in records if r["estimator"] == spec] for spec in config.estimators}
    curves = gap_curves(groups)
    report = Report(
        title=f"Posterior of a Gaussian mixture ({config.extension} extension)",
        summary=f"{config.num_components} components in {config.num_dimensions} dimensions with spread "
        f"{config.spread:g}, noise {config.noise:g}, {config.num_observations} observations, {config.num_steps} steps "
        "of Adam.",
        table=Table(COLUMNS, rows_by_gap(groups, _more), NOTE),
        plots=[Plot("Gap to the exact posterior", "step", "KL(q ‖ posterior), nats", curves, BAND_NOTE, log_y=True)],
        facts={"machine": folder.machine, "seeds": ", ".join(map(str, config.seeds))},
        command=command_of("catreparam run gmm", config),
    )
    return finish(folder, report)


def _more(runs: list[Record], gap: float) -> Record:
    mean, half = mean_and_interval([r["total_variation"] for r in runs])
    return {"total_variation": mean, "total_variation_ci": half, "true_loss": fmean(r["true_loss"] for r in runs)}
