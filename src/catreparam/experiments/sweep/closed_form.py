"""Studies whose value is known in closed form as a sweep sees them: polynomial programming and the mixture."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from catreparam.experiments.closed_form.gmm import Config as GmmConfig
from catreparam.experiments.closed_form.polynomial import Config as PolynomialConfig
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.sweep.trial import Say
from catreparam.report import ImageGrid


@dataclass(frozen=True)
class ClosedFormStudy:
    """`optimise(config, estimator=…, seed=…, say=…)` returns `gaps` at `steps`: the values above the optimum.

    There is no data to hold out: search and final runs differ in their seeds alone.
    """

    name: str
    config: PolynomialConfig | GmmConfig
    optimise: Callable[..., Record]
    facts: dict[str, str]
    value_title: str
    x_label: str = "step"
    log_y: bool = True

    @property
    def y_label(self) -> str:
        """Of the curves."""
        return self.value_title

    @property
    def lr(self) -> float:
        """The learning rate that is tried first."""
        return self.config.lr

    @property
    def num_steps(self) -> int:
        """Steps of Adam."""
        return self.config.num_steps

    def search(self, spec: str, lr: float, seed: int, say: Say) -> float:
        """The gap after the last step."""
        return self._run(spec, lr, seed, say)["gaps"][-1]

    def final(self, spec: str, lr: float, seed: int, folder: Path) -> Record:
        """The gap after the last step, and on the way."""
        record = self._run(spec, lr, seed, lambda step, value: None)
        gap = record["gaps"][-1]
        return {
            "validation": gap,
            "test": gap,
            "own_loss": record["own_loss"],
            "milliseconds_per_gradient": record["milliseconds"],
            "curves": {"step": record["steps"], "gap": record["gaps"]},
        }

    def grids(self, finals: dict[str, Record], folder: Path) -> list[ImageGrid]:
        """No pictures."""
        return []

    def _run(self, spec: str, lr: float, seed: int, say: Say) -> Record:
        return self.optimise(dataclasses.replace(self.config, lr=lr), estimator=spec, seed=seed, say=say)
