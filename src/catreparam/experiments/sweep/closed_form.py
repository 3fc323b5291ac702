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
from catreparam.experiments.sweep.trial import Say, Study


def closed_form_study(
    name: str,
    config: PolynomialConfig | GmmConfig,
    optimise: Callable[..., Record],
    *,
    facts: dict[str, str],
    value_title: str,
) -> Study:
    """`optimise(config, estimator=…, seed=…, say=…)` returns `gaps` at `steps`: the values above the optimum."""
    run = partial(_run, optimise, config)
    search, final = partial(_search, run), partial(_final, run)
    return Study(name, config.lr, config.num_steps, search, final, facts, value_title, y_label=value_title)


def _run(
    optimise: Callable[..., Record], config: PolynomialConfig | GmmConfig, spec: str, lr: float, seed: int, say: Say
) -> Record:
    return optimise(dataclasses.replace(config, lr=lr), estimator=spec, seed=seed, say=say)


def _search(run: Callable[..., Record], spec: str, lr: float, seed: int, say: Say) -> float:
    return run(spec, lr, seed, say)["gaps"][-1]


def _final(run: Callable[..., Record], spec: str, lr: float, seed: int, folder: Path) -> Record:
    record = run(spec, lr, seed, lambda step, value: None)
    gap = record["gaps"][-1]
    return {
        "validation": gap,
        "test": gap,
        "own_loss": record["own_loss"],
        "milliseconds_per_gradient": record["milliseconds"],
        "curves": {"step": record["steps"], "gap": record["gaps"]},
    }
