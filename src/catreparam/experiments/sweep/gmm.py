"""Tune every estimator on the mixture study, then fit with its best setting and fresh seeds.

Values are the gap of the negative ELBO to the exact posterior's, in closed form. Options that start with --gmm. are
those of `catreparam run gmm`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from catreparam.experiments.closed_form.gmm import Config as GmmConfig
from catreparam.experiments.closed_form.gmm import fit
from catreparam.experiments.sweep.closed_form import closed_form_study
from catreparam.experiments.sweep.config import SweepConfig, check_inner
from catreparam.experiments.sweep.plan import Study
from catreparam.experiments.sweep.study import report_sweep, run_sweep
from catreparam.report import Report


@dataclass(frozen=True)
class Config(SweepConfig):
    """What to tune."""

    lr_range: tuple[float, float] = (5e-3, 0.5)
    """Learning rates searched, on a logarithmic scale; twice the same number fixes it."""
    gmm: GmmConfig = field(default_factory=GmmConfig)

    def checked(self) -> "Config":
        """This config with estimators in one spelling. Raises ValueError or TypeError naming the bad value."""
        check_inner("gmm", self.gmm, GmmConfig())
        self.gmm.checked()
        return super().checked()


PRESETS = {
    "quick": Config(
        num_trials=3,
        seeds=(0, 1),
        gmm=GmmConfig(num_components=5, num_observations=50, num_steps=100),
        folder=Path("runs/sweep-gmm-quick"),
    ),
    "paper": Config(num_trials=30, seeds=tuple(range(10)), folder=Path("runs/sweep-gmm-paper")),
}


def run(config: Config) -> Report:
    """Runs or resumes the sweep. Raises as `run_sweep` does, and ValueError or TypeError for a bad config."""
    return run_sweep(config.checked(), study_of(config))


def report_folder(path: Path) -> Report:
    """Writes the report of a sweep's folder anew and returns it. Runs nothing."""
    return report_sweep(Config, study_of, path)


def study_of(config: Config) -> Study:
    """The study that a config tunes."""
    inner = config.gmm
    return closed_form_study(
        "gmm",
        inner,
        fit,
        facts={
            "problem": f"{inner.num_components} components, spread {inner.spread:g}, noise {inner.noise:g}, "
            f"{inner.num_observations} observations, {inner.extension} extension",
            "optimiser": f"Adam, {inner.num_steps} steps, {inner.num_samples} draw(s) a step",
        },
        value_title="gap = KL(q ‖ posterior)",
    )
