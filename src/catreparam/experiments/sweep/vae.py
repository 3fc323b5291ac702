"""Tune every estimator on the VAE study, then train it with its best setting and fresh seeds.

The search lowers the best validation −ELBO of a run; test images are only looked at in the final runs. Options that
start with --vae. are those of `catreparam run vae` (data, network, epochs, samples).
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from catreparam.data import load_dataset
from catreparam.data.digits import BINARISATIONS
from catreparam.experiments.runs.folder import Record, RunFolder
from catreparam.experiments.runs.training import to_tensors
from catreparam.experiments.sweep.config import SweepConfig, check_inner
from catreparam.experiments.sweep.plan import Say, Study
from catreparam.experiments.sweep.study import report_sweep, run_sweep
from catreparam.experiments.vae.config import Config as VaeConfig
from catreparam.experiments.vae.report import picture_grid
from catreparam.experiments.vae.run import (
    VaeTask,
    evaluation_images,
    new_task_state,
    train_and_measure,
    trained_model,
)
from catreparam.models.vae import CategoricalVAE
from catreparam.report import ImageGrid, Report

CURVES = ("validation_negative_elbo", "test_negative_elbo", "train_negative_elbo")


@dataclass(frozen=True)
class Config(SweepConfig):
    """What to tune. The defaults take about an hour on two cores."""

    vae: VaeConfig = field(default_factory=lambda: VaeConfig(num_epochs=40))

    def checked(self) -> "Config":
        """This config with estimators in one spelling. Raises ValueError or TypeError naming the bad value."""
        check_inner("vae", self.vae, VaeConfig())
        config = super().checked()
        for spec in config.estimators:
            dataclasses.replace(self.vae, estimators=(spec,)).checked()
        return config


PRESETS = {
    "quick": Config(
        num_trials=3,
        seeds=(0, 1),
        vae=VaeConfig(dataset="digits8", num_latents=20, num_epochs=40),
        folder=Path("runs/sweep-vae-quick"),
    ),
    "paper": Config(
        num_trials=30,
        seeds=tuple(range(10)),
        vae=VaeConfig(dataset="mnist", batch_size=200, num_epochs=200),
        folder=Path("runs/sweep-vae-paper"),
    ),
}


def run(config: Config) -> Report:
    """Runs or resumes the sweep. Raises as `run_sweep` does, and ValueError or TypeError for a bad config."""
    return run_sweep(config.checked(), study_of(config))


def report_folder(path: Path) -> Report:
    """Writes the report of a sweep's folder anew and returns it. Runs nothing."""
    return report_sweep(Config, study_of, path)


def study_of(config: Config) -> Study:
    """The study that a config tunes."""
    inner = config.vae
    return Study(
        "vae",
        inner.lr,
        inner.num_epochs,
        partial(_search, inner),
        partial(_final, inner),
        facts={
            "data": f"{inner.dataset}, {inner.num_epochs} epochs, batches of {inner.batch_size}",
            "binarisation": f"{inner.binarisation}: {BINARISATIONS[inner.binarisation]}",
            "codes": f"{inner.num_latents} of {inner.num_classes} classes, {inner.num_samples} draw(s) per step",
            "network": f"{inner.network}, {inner.activation}",
        },
        value_title="test −ELBO",
        y_label="−ELBO (nats per image)",
        x_label="epoch",
        log_y=False,
        grids=partial(_grids, inner),
    )


def _search(config: VaeConfig, spec: str, lr: float, seed: int, say: Say) -> float:
    """Trains without looking at test images; the best validation −ELBO."""
    best = float("inf")
    for record, _ in _epochs(config, spec, lr, seed, parts=("validation",)):
        best = min(best, record["validation_negative_elbo"])
        say(record["epoch"], best)
    return best


def _final(config: VaeConfig, spec: str, lr: float, seed: int, folder: Path) -> Record:
    """Trains and measures everything; keeps the model of the last epoch."""
    records, models = zip(*_epochs(config, spec, lr, seed, parts=("train", "validation", "test")), strict=True)
    task = VaeTask(config, spec, seed, folder)
    RunFolder(folder).save_checkpoint(task.checkpoint, to_tensors({"model": models[-1]}), {"epoch": len(records)})
    best, last = min(records, key=lambda record: record["validation_negative_elbo"]), records[-1]
    return {
        "validation": best["validation_negative_elbo"],
        "test": best["test_negative_elbo"],
        "train": best["train_negative_elbo"],
        "best_epoch": best["epoch"],
        "kl": best["test_kl"],
        **{key: last[f"test_{key}"] for key in ("iwae", "active_latents") if f"test_{key}" in last},
        "seconds_per_epoch": sorted(r["seconds"] for r in records)[len(records) // 2],
        "milliseconds_per_gradient": 1000 * sorted(r["gradient_seconds"] for r in records)[len(records) // 2],
        "curves": {"step": [r["epoch"] for r in records], **{key: [r[key] for r in records] for key in CURVES}},
    }


def _epochs(
    config: VaeConfig, spec: str, lr: float, seed: int, parts: tuple[str, ...]
) -> Iterator[tuple[Record, CategoricalVAE]]:
    """The metrics of every epoch, measured on these parts of the data, and the model as it is then."""
    task = VaeTask(dataclasses.replace(config, lr=lr), spec, seed, Path())
    dataset = load_dataset(config.dataset)
    images = {part: batch for part, batch in evaluation_images(config, dataset).items() if part in parts}
    state, train = new_task_state(task, dataset), dataset.train.to(config.device)
    while state.epoch < config.num_epochs:
        yield train_and_measure(task, state, train, images), state.model


def _grids(config: VaeConfig, finals: dict[str, Record], folder: Path) -> list[ImageGrid]:
    """Reconstructions and samples of one final run of each estimator."""
    dataset, grids = load_dataset(config.dataset), []
    for name, record in finals.items():
        model = trained_model(VaeTask(config, record["spec"], record["number"], folder), dataset)
        if model is not None:
            grids.append(picture_grid(name, model, dataset, config.binarisation))
    return grids
