"""Tune every estimator on one polynomial programme, then optimise with its best setting and fresh seeds.

Values are the true expected loss above the optimum, in closed form. Options that start with --polynomial. are those of
`catreparam run polynomial`; a sweep takes one power.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from catreparam.experiments.closed_form.polynomial import Config as PolynomialConfig
from catreparam.experiments.closed_form.polynomial import optimise
from catreparam.experiments.sweep.closed_form import closed_form_study
from catreparam.experiments.sweep.config import SweepConfig, check_inner
from catreparam.experiments.sweep.plan import Study
from catreparam.experiments.sweep.study import report_sweep, run_sweep
from catreparam.objectives.polynomial import Polynomial
from catreparam.report import Report


@dataclass(frozen=True)
class Config(SweepConfig):
    """What to tune."""

    lr_range: tuple[float, float] = (5e-3, 0.5)
    """Learning rates searched, on a logarithmic scale; twice the same number fixes it."""
    polynomial: PolynomialConfig = field(default_factory=lambda: PolynomialConfig(powers=(2.0,)))

    def checked(self) -> "Config":
        """This config with estimators in one spelling. Raises ValueError or TypeError naming the bad value."""
        check_inner("polynomial", self.polynomial, PolynomialConfig())
        if len(self.polynomial.powers) != 1:
            raise ValueError(f"a sweep takes one power, got {self.polynomial.powers}; run one sweep for each")
        self.polynomial.checked()
        return super().checked()


PRESETS = {
    "quick": Config(
        num_trials=3,
        seeds=(0, 1),
        polynomial=PolynomialConfig(powers=(2.0,), num_variables=16, batch_size=32, num_steps=100),
        folder=Path("runs/sweep-polynomial-quick"),
    ),
    "paper": Config(num_trials=30, seeds=tuple(range(10)), folder=Path("runs/sweep-polynomial-paper")),
}


def run(config: Config) -> Report:
    """Runs or resumes the sweep. Raises as `run_sweep` does, and ValueError or TypeError for a bad config."""
    return run_sweep(config.checked(), study_of(config))


def report_folder(path: Path) -> Report:
    """Writes the report of a sweep's folder anew and returns it. Runs nothing."""
    return report_sweep(Config, study_of, path)


def study_of(config: Config) -> Study:
    """The study that a config tunes."""
    inner = config.polynomial
    power = inner.powers[0]
    return closed_form_study(
        "polynomial",
        inner,
        partial(optimise, power=power),
        facts={
            "problem": f"{inner.num_variables} binary variables, p = {power:g}, {inner.extension} extension, optimum "
            f"{Polynomial(power, inner.target, inner.extension).optimum:.5f}",
            "optimiser": f"Adam, {inner.num_steps} steps, batches of {inner.batch_size} with {inner.num_samples} "
            "draw(s) each",
        },
        value_title="true loss above optimum",
    )
