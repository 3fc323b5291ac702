"""One training run of the VAE study, an estimator with a seed, from where its checkpoint stands to its last epoch."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, TypeAdapter
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from catreparam.data import ImageDataset, load_dataset
from catreparam.data.digits import binarise
from catreparam.experiments.runs.estimator_specs import build_estimator
from catreparam.experiments.runs.folder import Record, RunFolder
from catreparam.experiments.runs.progress import Progress
from catreparam.experiments.runs.records import Count, Number, Seconds, line
from catreparam.experiments.runs.streams import stream
from catreparam.experiments.runs.training import Diverged, load_parts, resume, to_tensors
from catreparam.experiments.vae.config import Config, check_tensorboard
from catreparam.experiments.vae.team import Team
from catreparam.experiments.vae.training import (
    ALONE,
    TrainingState,
    evaluate,
    evaluate_at_the_end,
    new_state,
    train_epoch,
)
from catreparam.models.vae import CategoricalVAE


@line
class Epoch(TypedDict):
    """What an epoch of a run measured; further keys are other measures of the images."""

    estimator: str
    seed: int
    epoch: Annotated[int, Field(ge=1, le=2**53)]
    seconds: Seconds
    gradient_seconds: NotRequired[Seconds]
    train_loss: Number
    train_negative_elbo: Number
    validation_negative_elbo: Number
    test_negative_elbo: Number
    test_kl: Number
    test_iwae: NotRequired[Number]
    test_active_latents: NotRequired[Number]


@line
class Ended(TypedDict):
    """A run that diverged."""

    estimator: str
    seed: int
    epoch: Count
    diverged: str


def _kind(record: Any) -> str:
    return "ended" if isinstance(record, dict) and "diverged" in record else "epoch"


LINES = TypeAdapter(Annotated[Annotated[Epoch, Tag("epoch")] | Annotated[Ended, Tag("ended")], Discriminator(_kind)])


@contextmanager
def scalar_log(folder: Path, *, enabled: bool, after: int) -> Iterator[Callable[[Mapping[str, Any], int], None]]:
    """Yields log(values, step), which writes the numbers among the values into `folder`.

    Steps after `after`, from a run that was killed, are shown no more. Raises ValueError, naming the package, if
    TensorBoard is not installed.
    """
    if not enabled:
        yield lambda values, step: None
        return
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=after + 1) as writer:
        yield lambda values, step: _add(writer, values, step)


def _add(writer: Any, values: Mapping[str, Any], step: int) -> None:
    for name, value in values.items():
        if isinstance(value, int | float):
            writer.add_scalar(name, value, step)
    writer.flush()


TRAIN_IMAGES_EVALUATED = 1000  # so many training images, evenly spread, stand for all when −ELBOs are measured
CHECKPOINT_SECONDS = 5.0  # training time between checkpoints, at least; the last epoch always has one


@dataclass(frozen=True)
class VaeTask:
    """What a worker needs to know: the config, the estimator, the seed, and the run folder."""

    config: Config
    spec: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.spec} · seed {self.seed}" if len(self.config.seeds) > 1 else self.spec

    @property
    def checkpoint(self) -> str:
        """The name of its checkpoint."""
        return f"{self.spec.replace(':', '-').replace(',', '-')}-seed{self.seed}"

    def run_folder(self) -> RunFolder:
        """The folder of all runs."""
        return RunFolder(self.folder, LINES)

    def owns(self, record: Record) -> bool:
        """Whether a line of the metrics is of this run."""
        return (record["estimator"], record["seed"]) == (self.spec, self.seed)


def tasks_of(config: Config, folder: Path) -> list[VaeTask]:
    """Every (estimator, seed) to train, all estimators of a seed before the next seed."""
    return [VaeTask(config, spec, seed, folder) for seed, spec in itertools.product(config.seeds, config.estimators)]


def train_task(task: VaeTask, progress: Progress, team: Team = ALONE) -> str:
    """Trains from where the checkpoint stands to the last epoch; returns a line on how it went. Does nothing if done.

    In a team every process trains and the first one measures and writes.
    """
    config, folder = task.config, task.run_folder()
    if team.agree(lambda: is_finished(task)):
        return "done"
    dataset = _dataset(config.dataset)
    state = new_task_state(task, dataset)
    state.epoch = resume(
        folder,
        task.checkpoint,
        state.parts(),
        unit="epoch",
        owns=task.owns,
        usable=lambda epoch, records: _can_go_on(task, epoch, records),
        agree=team.agree,
    )
    if team.rank > 0:
        return _follow(task, state, dataset, team)
    progress.start(task.name, total=config.num_epochs, done=state.epoch)
    images, train = evaluation_images(config, dataset), dataset.train.to(config.device)
    saved, note = time.monotonic(), "done"
    scalars = scalar_log(folder.path / "tensorboard" / task.checkpoint, enabled=config.tensorboard, after=state.epoch)
    with scalars as log:
        while state.epoch < config.num_epochs:
            try:
                record = train_and_measure(task, state, train, images, team)
            except Diverged as error:
                said = {"estimator": task.spec, "seed": task.seed, "epoch": state.epoch, "diverged": str(error)}
                folder.append_metrics(said)
                progress.say(f"{task.name}: {error}; going on with the next run")
                return "diverged"
            folder.append_metrics(record)
            log(record, state.epoch)
            if state.epoch == config.num_epochs or time.monotonic() - saved >= CHECKPOINT_SECONDS:
                _save(task, state, folder)
                saved = time.monotonic()
            note = f"train {record['train_loss']:.2f}, validation {record['validation_negative_elbo']:.2f}"
            progress.advance(task.name, note)
    return note


def train_and_measure(
    task: VaeTask, state: TrainingState, train: Tensor, images: dict[str, Tensor], team: Team = ALONE
) -> Record:
    """One epoch and its line of the metrics. Raises Diverged."""
    config = task.config
    began = time.perf_counter()
    stats = train_epoch(
        state,
        train,
        binarisation=config.binarisation,
        batch_size=config.batch_size,
        num_samples=config.num_samples,
        team=team,
    )
    seconds = time.perf_counter() - began
    record: Record = {"estimator": task.spec, "seed": task.seed, "epoch": state.epoch, "seconds": seconds}
    record |= {"gradient_seconds": stats.gradient_seconds, "train_loss": stats.loss}
    for part, batch in images.items():  # the same draws after every epoch, for every estimator
        generator = stream(task.seed, f"evaluation {part}", config.device)
        values = evaluate(state.model, batch, num_samples=config.num_evaluation_samples, generator=generator)
        record |= {f"{part}_{key}": value for key, value in values.items()}
    if state.epoch == config.num_epochs and "test" in images:
        generator = stream(task.seed, "evaluation at the end", config.device)
        values = evaluate_at_the_end(state.model, images["test"], iwae_samples=config.iwae_samples, generator=generator)
        record |= {f"test_{key}": value for key, value in values.items()}
    return record


def is_finished(task: VaeTask, records: list[Record] | None = None) -> bool:
    """Whether the run reached its last epoch, checkpoint included, or diverged."""
    folder = task.run_folder()
    mine = [r for r in (folder.read_metrics() if records is None else records) if task.owns(r)]
    if any("diverged" in record for record in mine):
        return True
    if [record["epoch"] for record in mine] != list(range(1, task.config.num_epochs + 1)):
        return False
    return folder.checkpoint_count(task.checkpoint, "epoch") == task.config.num_epochs


def trained_model(task: VaeTask, dataset: ImageDataset) -> CategoricalVAE | None:
    """The model of the last checkpoint, None before the first one."""
    model = new_task_state(task, dataset).model
    return model if load_parts(task.run_folder(), task.checkpoint, {"model": model}) else None


def new_task_state(task: VaeTask, dataset: ImageDataset) -> TrainingState:
    """Initial weights, optimiser and generators of the run."""
    config = task.config
    return new_state(
        (dataset.train.shape[1], dataset.train.shape[2]),
        estimator=build_estimator(task.spec),
        num_latents=config.num_latents,
        num_classes=config.num_classes,
        hidden_sizes=config.hidden_sizes,
        network=config.network,
        activation=config.activation,
        lr=config.lr,
        seed=task.seed,
        device=config.device,
    )


def evaluation_images(config: Config, dataset: ImageDataset) -> dict[str, Tensor]:
    """The images that stand for training, validation and test, binarised once, the same for every run."""
    every = -(-len(dataset.train) // TRAIN_IMAGES_EVALUATED)
    parts = {"train": dataset.train[::every], "validation": dataset.validation, "test": dataset.test}
    return {
        part: binarise(images, config.binarisation, generator=stream(0, f"pixels of {part}")).to(config.device)
        for part, images in parts.items()
    }


def _can_go_on(task: VaeTask, epoch: int, records: list[Record]) -> bool:
    """Whether a checkpoint of this epoch can be trained on; its run's own metrics may have been lost by hand."""
    whole = [record["epoch"] for record in records[:epoch]] == list(range(1, epoch + 1))
    return whole and epoch < task.config.num_epochs


def _save(task: VaeTask, state: TrainingState, folder: RunFolder) -> None:
    finished = state.epoch == task.config.num_epochs  # what is only needed to train on goes
    parts = {"model": state.model} if finished else state.parts()
    folder.save_checkpoint(task.checkpoint, to_tensors(parts), {"epoch": state.epoch})


def _follow(task: VaeTask, state: TrainingState, dataset: ImageDataset, team: Team) -> str:
    """The part of a process that does not write."""
    train = dataset.train.to(task.config.device)
    try:
        while state.epoch < task.config.num_epochs:
            train_and_measure(task, state, train, {}, team)
    except Diverged:
        return "diverged"
    return "done"


@lru_cache(maxsize=2)
def _dataset(name: str) -> ImageDataset:
    return load_dataset(name)
