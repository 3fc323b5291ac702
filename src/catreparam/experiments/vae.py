"""Train a categorical VAE on digits with one estimator, or with several side by side.

Every estimator sees the same initial weights and the same batches for the same seed. Negative ELBOs on training,
validation and test images are always measured with exact draws, never with an estimator's own law.
"""

import dataclasses
import hashlib
import itertools
import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from catreparam.data import DATASETS, ImageDataset, load_dataset
from catreparam.data.binarise import BINARISATIONS, binarise
from catreparam.experiments.estimator_specs import build_estimator, normalise_specs, try_estimator
from catreparam.experiments.machine import check_device, describe_machine
from catreparam.experiments.progress import Progress, show_progress
from catreparam.experiments.run_folder import Interrupted, RunFolder, RunFolderError, open_run_folder, writing
from catreparam.experiments.vae_report import learning_curves, picture_grid, summary_table
from catreparam.experiments.vae_training import Diverged, TrainingState, evaluate, new_state, stream, train_epoch
from catreparam.report import Report, write_report
from catreparam.validation import check_choice, check_count, check_number

TRAIN_IMAGES_EVALUATED = 1000  # so many training images, evenly spread, stand for all when −ELBOs are measured


@dataclass(frozen=True)
class Config:
    """What to train. Defaults take a few minutes on two cores."""

    estimators: tuple[str, ...] = ("straight_through", "gumbel_softmax", "reinmax", "redge", "exact_redge")
    """Names, each with hyperparameters if wanted: redge:num_steps=4,t1=0.5 (`catreparam list` shows all names)."""
    dataset: str = "mnist5k"
    """digits8 | mnist5k | mnist | fashion_mnist."""
    binarisation: str = "threshold"
    """threshold | greyscale | dynamic: how grey pixels become targets; compare ELBOs of one rule only."""
    num_latents: int = 48
    """L, the number of categorical variables of an image."""
    num_classes: int = 2
    """K, the number of classes of each."""
    hidden_sizes: tuple[int, ...] = ()
    """Encoder layers (the decoder mirrors them). None given: 512 256 for 28x28 images, smaller for smaller images."""
    batch_size: int = 100
    num_epochs: int = 50
    lr: float = 5e-4
    """Learning rate of Adam."""
    num_samples: int = 1
    """Draws of the codes per image and training step (rloo needs at least 2)."""
    seeds: tuple[int, ...] = (0,)
    """One run per estimator and seed; the table shows means and standard errors over seeds."""
    num_evaluation_samples: int = 4
    """Exact draws per image when measuring negative ELBOs."""
    device: str = "cpu"
    folder: Path | None = None
    """Run folder; default runs/vae/NAME, where NAME is made from this config. The same command resumes there."""

    def checked(self) -> "Config":
        """This config with estimators in one spelling. Raises ValueError or TypeError naming the bad value."""
        check_choice("data set", self.dataset, DATASETS)
        check_choice("binarisation", self.binarisation, BINARISATIONS)
        for name in ("num_latents", "batch_size", "num_epochs", "num_samples", "num_evaluation_samples"):
            check_count(name, getattr(self, name))
        check_count("num_classes", self.num_classes, 2)
        check_number("lr", self.lr, above=0.0)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be one or several different integers, got {self.seeds}")
        check_device(self.device)
        estimators = normalise_specs(self.estimators)
        for spec in estimators:
            try_estimator(spec, (self.num_latents, self.num_classes), num_samples=self.num_samples)
        return dataclasses.replace(self, estimators=estimators)

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, as JSON has them: two runs with the same identity are the same run."""
        fields = {key: value for key, value in dataclasses.asdict(self).items() if key != "folder"}
        return json.loads(json.dumps(fields))

    def run_folder(self) -> Path:
        """Where the run lives."""
        digest = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:6]
        shape = f"{self.num_latents}x{self.num_classes}"
        return self.folder or Path("runs/vae") / f"{self.dataset}-{self.binarisation}-{shape}-{digest}"

    def tasks(self) -> list[tuple[str, int]]:
        """Every (estimator, seed) to train, all estimators of a seed before the next seed."""
        return [(spec, seed) for seed, spec in itertools.product(self.seeds, self.estimators)]


PRESETS = {
    "demo": Config(
        estimators=(
            "straight_through",
            "gumbel_softmax",
            "reinmax",
            "redge",
            "exact_redge",
            "exact_redge:second_order_weight=1.0,num_noises=2",
        ),
        num_epochs=40,
        lr=2e-3,  # four times the paper's: the demo makes 1,400 steps, the paper 60,000
        folder=Path("runs/demo"),
    ),
    "paper": Config(
        estimators=("straight_through", "gumbel_softmax", "reinmax", "redge", "reindge", "exact_redge"),
        dataset="mnist",
        batch_size=200,
        num_epochs=200,
        seeds=(0, 1, 2, 3, 4),
    ),
}


def run(config: Config) -> Report:
    """Trains whatever is not trained yet, writes the report into the run folder, and returns it.

    Raises: Interrupted on Ctrl-C, with the report of what there is, already written; MissingData, RunFolderError,
        WriteFailed as their names say.
    """
    config = config.checked()
    dataset = load_dataset(config.dataset)
    facts = {"machine": describe_machine(config.device)}
    with open_run_folder(config.run_folder(), experiment="vae", config=config.identity(), facts=facts) as folder:
        try:
            with show_progress() as progress:
                images = _evaluation_images(config, dataset)
                for spec, seed in config.tasks():
                    _train(config, spec, seed, dataset, images, folder, progress)
        except KeyboardInterrupt:
            raise Interrupted(_write_report(config, dataset, folder), folder.path) from None
        return _write_report(config, dataset, folder)


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew, from its metrics and checkpoints, and returns it. Trains nothing."""
    folder = RunFolder(path)
    fields = folder.read_config()["config"]
    known = {field.name for field in dataclasses.fields(Config)}
    if unknown := sorted(set(fields) - known):
        raise RunFolderError(f"{folder.config_path} has fields this version does not know: {', '.join(unknown)}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    config = Config(**values, folder=path).checked()
    return _write_report(config, load_dataset(config.dataset), folder)


def _train(
    config: Config,
    spec: str,
    seed: int,
    dataset: ImageDataset,
    images: dict[str, Tensor],
    folder: RunFolder,
    progress: Progress,
) -> None:
    """Trains one estimator with one seed from where its checkpoint stands to the last epoch."""
    state, task = _new_state(config, spec, seed, dataset), f"{spec} · seed {seed}" if len(config.seeds) > 1 else spec
    if _resume(state, spec, seed, folder):
        return
    if state.epoch < config.num_epochs:
        progress.start(task, total=config.num_epochs, done=state.epoch)
    train = dataset.train.to(config.device)
    while state.epoch < config.num_epochs:
        began = time.perf_counter()
        try:
            loss = train_epoch(
                state,
                train,
                binarisation=config.binarisation,
                batch_size=config.batch_size,
                num_samples=config.num_samples,
            )
        except Diverged as error:
            folder.append_metrics({"estimator": spec, "seed": seed, "epoch": state.epoch, "diverged": str(error)})
            progress.say(f"{task}: {error}; going on with the next run")
            return
        seconds = time.perf_counter() - began
        record = {"estimator": spec, "seed": seed, "epoch": state.epoch, "seconds": seconds, "train_loss": loss}
        record |= _measure(config, state, images, seed)
        folder.append_metrics(record)
        folder.save_checkpoint(_checkpoint_name(spec, seed), state.to_tensors(), {"epoch": state.epoch})
        progress.advance(task, f"train {loss:.2f}, validation {record['validation_negative_elbo']:.2f}")


def _measure(config: Config, state: TrainingState, images: dict[str, Tensor], seed: int) -> dict[str, float]:
    """Negative ELBO and KL on each part of the data; the same draws after every epoch, for every estimator."""
    measured = {}
    for part, batch in images.items():
        generator = stream(seed, f"evaluation {part}", config.device)
        values = evaluate(state.model, batch, num_samples=config.num_evaluation_samples, generator=generator)
        measured |= {f"{part}_{key}": value for key, value in values.items()}
    return measured


def _evaluation_images(config: Config, dataset: ImageDataset) -> dict[str, Tensor]:
    every = -(-len(dataset.train) // TRAIN_IMAGES_EVALUATED)
    parts = {"train": dataset.train[::every], "validation": dataset.validation, "test": dataset.test}
    return {
        part: binarise(images, config.binarisation, generator=stream(0, f"pixels of {part}")).to(config.device)
        for part, images in parts.items()
    }


def _new_state(config: Config, spec: str, seed: int, dataset: ImageDataset) -> TrainingState:
    return new_state(
        (dataset.train.shape[1], dataset.train.shape[2]),
        estimator=build_estimator(spec),
        num_latents=config.num_latents,
        num_classes=config.num_classes,
        hidden_sizes=config.hidden_sizes,
        lr=config.lr,
        seed=seed,
        device=config.device,
    )


def _resume(state: TrainingState, spec: str, seed: int, folder: RunFolder) -> bool:
    """Loads the checkpoint, if any, and drops metrics from after it. True if this run diverged and is over."""
    records = folder.read_metrics()
    mine = [record for record in records if (record["estimator"], record["seed"]) == (spec, seed)]
    if any("diverged" in record for record in mine):
        return True
    checkpoint = folder.load_checkpoint(_checkpoint_name(spec, seed))
    epoch = checkpoint[1]["epoch"] if checkpoint else 0
    if [record["epoch"] for record in mine[:epoch]] != list(range(1, epoch + 1)):
        epoch = 0  # metrics were lost by hand: only a fresh start makes the curve whole again
    if checkpoint and epoch:
        state.load_tensors(checkpoint[0], epoch)
    if len(mine) > epoch or folder.has_cut_line():
        others = [record for record in records if (record["estimator"], record["seed"]) != (spec, seed)]
        folder.replace_metrics(others + mine[:epoch])
    return False


def _checkpoint_name(spec: str, seed: int) -> str:
    return f"{spec.replace(':', '-').replace(',', '-')}-seed{seed}"


def _write_report(config: Config, dataset: ImageDataset, folder: RunFolder) -> Report:
    report = _build_report(config, dataset, folder)
    with writing(folder.path / "report.html"):
        write_report(report, folder.path)
    return report


def _build_report(config: Config, dataset: ImageDataset, folder: RunFolder) -> Report:
    records = folder.read_metrics()
    specs, machine = config.estimators, folder.read_config()["facts"]["machine"]
    finished = {(r["estimator"], r["seed"]) for r in records if "diverged" in r or r["epoch"] == config.num_epochs}
    unfinished = len(config.tasks()) - len(finished)
    return Report(
        title=f"Categorical VAE on {config.dataset} ({config.binarisation})",
        summary=f"{len(specs)} estimator{'s' * (len(specs) > 1)}, {config.num_latents} codes of "
        f"{config.num_classes} classes, {config.num_epochs} epochs. Negative ELBO in nats per image: lower is better.",
        table=summary_table(records, specs, config.num_epochs, _table_note(config)),
        plots=learning_curves(records, specs),
        grids=_grids(config, dataset, folder),
        facts=_facts(config, dataset, machine),
        command=command_of(config),
        location=str(folder.path / "report.html"),
        warning=f"Unfinished: {unfinished} of {len(config.tasks())} runs. The same command resumes."
        if unfinished
        else "",
    )


def _grids(config: Config, dataset: ImageDataset, folder: RunFolder) -> list:
    grids = []
    for spec in config.estimators:
        checkpoint = folder.load_checkpoint(_checkpoint_name(spec, config.seeds[0]))
        if checkpoint:
            state = _new_state(config, spec, config.seeds[0], dataset)
            state.load_tensors(checkpoint[0], checkpoint[1]["epoch"])
            grids.append(picture_grid(spec, state.model, dataset, config.binarisation))
    return grids


def _table_note(config: Config) -> str:
    return (
        f"{config.dataset}, binarisation {config.binarisation}. Values at the epoch with the best validation −ELBO, "
        f"except “last epoch”. Measured with {config.num_evaluation_samples} exact draws per image. ± is one standard "
        "error over seeds. Seconds are the median training time of an epoch, without evaluation."
    )


def _facts(config: Config, dataset: ImageDataset, machine: str) -> dict[str, str]:
    sizes = (
        f"{len(dataset.train):,} training, {len(dataset.validation):,} validation, {len(dataset.test):,} test images"
    )
    return {
        "data": f"{config.dataset}: {sizes} of {dataset.train.shape[1]}x{dataset.train.shape[2]} pixels",
        "binarisation": f"{config.binarisation}: {BINARISATIONS[config.binarisation]}",
        "codes": f"{config.num_latents} of {config.num_classes} classes, uniform prior, KL in closed form",
        "optimiser": f"Adam, learning rate {config.lr:g}, batches of {config.batch_size}, {config.num_epochs} epochs",
        "draws per training step": str(config.num_samples),
        "seeds": ", ".join(map(str, config.seeds)),
        "machine": machine,
    }


def command_of(config: Config) -> str:
    """The command that makes this run: what differs from the defaults."""
    words = ["catreparam", "run", "vae"]
    default = Config()
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if value != getattr(default, field.name):
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{field.name.replace('_', '-')}", *(shlex.quote(str(item)) for item in values)]
    return " ".join(words)
