"""Fit the posterior over the components of a Gaussian mixture with each estimator, beside the exact one.

Every observation has logits of its own; Adam maximises the ELBO with the KL to the uniform prior in closed form. The
table shows how far the fitted law is from the exact posterior: the negative ELBO's gap, which is a KL, and the total
variation, both in closed form.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from catreparam.categorical import kl_to_uniform
from catreparam.estimators import expectation, fewest_samples
from catreparam.experiments.runs.cells import run_cells
from catreparam.experiments.runs.configs import command_of, config_of_folder
from catreparam.experiments.runs.estimator_specs import MAIN_ESTIMATORS, build_estimator, normalise_specs
from catreparam.experiments.runs.finish import finish
from catreparam.experiments.runs.folder import Record, RunFolder
from catreparam.experiments.runs.statistics import band, compare, mean_and_interval
from catreparam.objectives.gmm import MixturePosterior
from catreparam.report import Column, Curve, Plot, Report, Table
from catreparam.validation import check_count, check_number

POINTS = 100  # of a curve
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
    "Means over observations, after the last step, in nats; the exact posterior has gap 0. Its samples' −ELBO: as the "
    "estimator's own draws saw it, mean over the last tenth of the steps. ± is half the 95 % interval over seeds, each with "
    "a mixture of its own, the same for all estimators; differences to the best are paired by seed. Times are of this run "
    "and not interleaved."
)


@dataclass(frozen=True)
class Config:
    """What to fit."""

    estimators: tuple[str, ...] = MAIN_ESTIMATORS
    """Names, each with hyperparameters if wanted: redge:num_steps=4,t1=0.5."""
    num_components: int = 20
    num_observations: int = 500
    num_dimensions: int = 2
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
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be one or several different integers, got {self.seeds}")
        self.mixture(0)
        return dataclasses.replace(self, estimators=normalise_specs(self.estimators))

    def mixture(self, seed: int) -> MixturePosterior:
        """The problem of a seed."""
        return MixturePosterior(
            self.num_components,
            self.num_observations,
            self.num_dimensions,
            self.spread,
            self.noise,
            self.extension,
            seed,
        )


PRESETS = {
    "paper": Config(),
    "quick": Config(num_steps=300, seeds=(0, 1), folder=Path("runs/gmm-quick")),
}


def run(config: Config) -> Report:
    """Fits what is not fitted yet, writes the report into the run folder and returns it."""
    config = config.checked()
    keys = [{"seed": seed, "estimator": spec} for seed, spec in itertools.product(config.seeds, config.estimators)]
    with run_cells("gmm", config, keys, fit, config.folder or Path("runs/gmm")) as folder:
        return _write_report(config, folder)


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew and returns it. Runs nothing."""
    config, folder = config_of_folder(Config, path)
    return _write_report(config.checked(), folder)


def fit(
    config: Config, seed: int, estimator: str, say: Callable[[int, float], None] = lambda step, gap: None
) -> Record:
    """One fit by Adam from uniform logits: gaps at about POINTS steps, which are also said, total variation at the end."""
    mixture, method = config.mixture(seed), build_estimator(estimator)
    logits = torch.zeros(config.num_observations, config.num_components, requires_grad=True)
    optimizer, generator = torch.optim.Adam([logits], lr=config.lr), torch.Generator().manual_seed(seed)
    num_samples = max(config.num_samples, fewest_samples(method))
    every = max(1, config.num_steps // POINTS)
    steps, gaps, own_losses, seconds = [0], [float(mixture.gap(logits.detach()).mean())], [], 0.0
    for step in range(1, config.num_steps + 1):
        began = time.perf_counter()
        optimizer.zero_grad()
        fits = expectation(mixture, logits, estimator=method, num_samples=num_samples, generator=generator)  # [N]
        loss = fits + kl_to_uniform(logits)
        loss.sum().backward()
        optimizer.step()
        seconds += time.perf_counter() - began
        own_losses.append(float(loss.detach().mean()))
        if step % every == 0 or step == config.num_steps:
            steps.append(step)
            gaps.append(float(mixture.gap(logits.detach()).mean()))
            say(step, gaps[-1])
    return {
        "gaps": gaps,
        "steps": steps,
        "total_variation": float(mixture.total_variation(logits.detach()).mean()),
        "true_loss": gaps[-1] + float(mixture.negative_log_evidence().mean()),
        "own_loss": fmean(own_losses[-max(1, config.num_steps // 10) :]),
        "milliseconds": 1000 * seconds / config.num_steps,
    }


def _write_report(config: Config, folder: RunFolder) -> Report:
    records = folder.read_metrics()
    groups = {spec: [r for r in records if r["estimator"] == spec] for spec in config.estimators}
    groups = {spec: runs for spec, runs in groups.items() if runs}
    compared = compare({spec: {r["seed"]: r["gaps"][-1] for r in runs} for spec, runs in groups.items()})
    rows = [_row(spec, runs, compared[spec]) for spec, runs in groups.items()]
    report = Report(
        title=f"Posterior of a Gaussian mixture ({config.extension} extension)",
        summary=f"{config.num_components} components in {config.num_dimensions} dimensions with spread {config.spread:g}, "
        f"noise {config.noise:g}, {config.num_observations} observations, {config.num_steps} steps of Adam.",
        table=Table(COLUMNS, sorted(rows, key=lambda row: row["gap"]), NOTE),
        plots=[_curves(groups)],
        facts={"machine": folder.machine, "seeds": ", ".join(map(str, config.seeds))},
        command=command_of("catreparam run gmm", config),
    )
    return finish(folder, report)


def _row(spec: str, runs: list[Record], compared: Record) -> Record:
    row: Record = {"estimator": spec, "seeds": len(runs), "gap": compared["mean"], "gap_ci": compared["half"]}
    row |= {"difference": compared["difference"], "difference_ci": compared["difference_half"]}
    row["total_variation"], row["total_variation_ci"] = mean_and_interval([r["total_variation"] for r in runs])
    return row | {key: fmean(r[key] for r in runs) for key in ("own_loss", "true_loss", "milliseconds")}


def _curves(groups: dict[str, list[Record]]) -> Plot:
    curves = []
    for spec, runs in groups.items():
        mean, error = band([r["gaps"] for r in runs])
        curves.append(Curve(spec, runs[0]["steps"], mean, error))
    return Plot("Gap to the exact posterior", "step", "KL(q ‖ posterior), nats", curves, _BAND_NOTE, log_y=True)


_BAND_NOTE = "Mean over observations and seeds; the band is the 95 % interval over seeds, with three or more."
