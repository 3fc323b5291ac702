"""Studies whose value is known in closed form as a sweep sees them: polynomial programming and the mixture.

There is no data to hold out: search and final runs differ in their seeds alone.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

from catreparam.experiments.closed_form.gmm import Config as GmmConfig
from catreparam.experiments.closed_form.polynomial import Config as PolynomialConfig
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.sweep.plan import Say, Study


def closed_form_study(
    name: str,
    config: PolynomialConfig | GmmConfig,
    optimise: Callable[..., Record],
    *,
    facts: dict[str, str],
    value_title: str,
) -> Study:
    """`optimise(config, estimator=…, seed=…, say=…)` returns `gaps` at `steps`: the values above the optimum."""
    search, final = partial(_search, optimise, config), partial(_final, optimise, config)
    return Study(name, config.lr, config.num_steps, search, final, facts, value_title, y_label=value_title)


def _search(
    optimise: Callable[..., Record], config: PolynomialConfig | GmmConfig, spec: str, lr: float, seed: int, say: Say
) -> float:
    return optimise(dataclasses.replace(config, lr=lr), estimator=spec, seed=seed, say=say)["gaps"][-1]


def _final(
    optimise: Callable[..., Record], config: PolynomialConfig | GmmConfig, spec: str, lr: float, seed: int, folder: Path
) -> Record:
    record = optimise(dataclasses.replace(config, lr=lr), estimator=spec, seed=seed)
    gap = record["gaps"][-1]
    return {
        "validation": gap,
        "test": gap,
        "own_loss": record["own_loss"],
        "milliseconds_per_gradient": record["milliseconds"],
        "curves": {"step": record["steps"], "gap": record["gaps"]},
    }
