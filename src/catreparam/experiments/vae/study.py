"""Train a categorical VAE on digits with one estimator, or with several side by side.

Every estimator sees the same initial weights and the same batches for the same seed. Negative ELBOs on training,
validation and test images are always measured with exact draws, never with an estimator's own law.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

from catreparam.data import DATASETS, ImageDataset, load_dataset
from catreparam.data.binarise import BINARISATIONS
from catreparam.experiments.runs.configs import command_of, config_of_folder, identity_of
from catreparam.experiments.runs.estimator_specs import MAIN_ESTIMATORS, normalise_specs, try_estimator
from catreparam.experiments.runs.finish import finish
from catreparam.experiments.runs.folder import Interrupted, RunFolder, open_run_folder
from catreparam.experiments.runs.machine import check_device, describe_machine
from catreparam.experiments.runs.parallel import run_side_by_side
from catreparam.experiments.runs.progress import Silent, show_progress
from catreparam.experiments.vae.report import further_table, learning_curves, picture_grid, summary_table
from catreparam.experiments.vae.run import VaeTask, is_finished, train_task, trained_model
from catreparam.experiments.vae.team import Team, check_team, join_team
from catreparam.experiments.vae.tensorboard import check_tensorboard
from catreparam.models.vae import ACTIVATIONS, NETWORKS
from catreparam.report import ImageGrid, Report
from catreparam.validation import check_choice, check_count, check_number


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
    network: str = "mlp"
    """mlp | conv."""
    activation: str = "leaky_relu"
    """leaky_relu (the ReDGE paper) | relu (the ReinMax paper)."""
    batch_size: int = 100
    num_epochs: int = 50
    lr: float = 5e-4
    """Learning rate of Adam."""
    num_samples: int = 1
    """Draws of the codes per image and training step (rloo needs at least 2)."""
    seeds: tuple[int, ...] = (0,)
    """One run per estimator and seed; the table shows means over seeds and differences paired by seed."""
    num_evaluation_samples: int = 4
    """Exact draws per image when measuring negative ELBOs."""
    iwae_samples: int = 64
    """Draws per test image of the importance-weighted bound after the last epoch; 0 leaves it out."""
    device: str = "cpu"
    jobs: int = 1
    """Runs side by side, each in a process of its own on one thread. 1: one after the other on torch's threads."""
    tensorboard: bool = False
    """Write the curves for TensorBoard too, into FOLDER/tensorboard."""
    folder: Path | None = None
    """Run folder; default runs/vae/NAME, where NAME is made from this config. The same command resumes there."""

    def checked(self) -> "Config":
        """This config with estimators in one spelling. Raises ValueError or TypeError naming the bad value."""
        check_choice("data set", self.dataset, DATASETS)
        check_choice("binarisation", self.binarisation, BINARISATIONS)
        check_choice("network", self.network, NETWORKS)
        check_choice("activation", self.activation, ACTIVATIONS)
        for name in ("num_latents", "batch_size", "num_epochs", "num_samples", "num_evaluation_samples", "jobs"):
            check_count(name, getattr(self, name))
        check_count("num_classes", self.num_classes, 2)
        check_count("iwae_samples", self.iwae_samples, 0)
        check_number("lr", self.lr, above=0.0)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be one or several different integers, got {self.seeds}")
        check_device(self.device)
        if self.tensorboard:
            check_tensorboard()
        estimators = normalise_specs(self.estimators)
        for spec in estimators:
            try_estimator(spec, (self.num_latents, self.num_classes), num_samples=self.num_samples)
        return dataclasses.replace(self, estimators=estimators)

    def run_folder(self) -> Path:
        """Where the run lives."""
        digest = hashlib.sha256(json.dumps(identity_of(self), sort_keys=True).encode()).hexdigest()[:6]
        shape = f"{self.num_latents}x{self.num_classes}"
        return self.folder or Path("runs/vae") / f"{self.dataset}-{self.binarisation}-{shape}-{digest}"

    def tasks(self, folder: Path) -> list[VaeTask]:
        """Every (estimator, seed) to train, all estimators of a seed before the next seed."""
        return [VaeTask(self, spec, seed, folder) for seed, spec in itertools.product(self.seeds, self.estimators)]


REINMAX_SHAPES = ((8, 4), (4, 24), (8, 16), (16, 12), (64, 8), (10, 30))  # K x L

PRESETS = {
    "quick": Config(num_epochs=10, lr=2e-3, folder=Path("runs/vae-quick")),
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
        iwae_samples=0,
        folder=Path("runs/demo"),
    ),
    "paper": Config(
        estimators=MAIN_ESTIMATORS,
        dataset="mnist",
        batch_size=200,
        num_epochs=200,
        seeds=(0, 1, 2, 3, 4),
    ),
    **{
        f"reinmax-{num_classes}x{num_latents}": Config(
            estimators=MAIN_ESTIMATORS,
            dataset="mnist",
            binarisation="greyscale",
            num_latents=num_latents,
            num_classes=num_classes,
            activation="relu",
            num_epochs=160,
            seeds=tuple(range(10)),
        )
        for num_classes, num_latents in REINMAX_SHAPES
    },
}


def run(config: Config) -> Report:
    """Trains whatever is not trained yet, writes the report into the run folder, and returns it.

    Under torchrun the processes train every model together.

    Raises: Interrupted on Ctrl-C, with the report of what there is, already written; MissingData, RunFolderError,
        WriteFailed as their names say.
    """
    config = config.checked()
    dataset = load_dataset(config.dataset)
    team = join_team(config.device)
    if team.size > 1:
        return _run_in_team(config, dataset, team)
    facts = {"machine": describe_machine(config.device, config.jobs)}
    with open_run_folder(config.run_folder(), experiment="vae", config=identity_of(config), facts=facts) as folder:
        try:
            _train_all(config, folder)
        except KeyboardInterrupt:
            raise Interrupted(_write_report(config, dataset, folder), folder.path) from None
        return _write_report(config, dataset, folder)


def _run_in_team(config: Config, dataset: ImageDataset, team: Team) -> Report:
    """As `run`, in every process of a team; the first one holds the folder, and all return its report."""
    check_team(config.estimators, config.jobs)
    path = config.run_folder()
    facts = {"machine": f"{describe_machine(config.device)}, {team.size} processes"}
    with contextlib.ExitStack() as stack:
        if team.rank == 0:
            opened = open_run_folder(path, experiment="vae", config=identity_of(config), facts=facts)
            stack.enter_context(opened)
        team.agree(lambda: path.exists())
        progress = stack.enter_context(show_progress()) if team.rank == 0 else Silent()
        for task in config.tasks(path):
            train_task(task, progress, team)
        if team.rank == 0:
            _write_report(config, dataset, RunFolder(path))
        team.agree(lambda: path.exists())
        return _build_report(config, dataset, RunFolder(path))


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew, from its metrics and checkpoints, and returns it. Trains nothing."""
    config, folder = config_of_folder(Config, path)
    config = config.checked()
    return _write_report(config, load_dataset(config.dataset), folder)


def _train_all(config: Config, folder: RunFolder) -> None:
    tasks = config.tasks(folder.path)
    with show_progress() as progress:
        if config.jobs == 1:
            for task in tasks:
                train_task(task, progress)
            return
        progress.start("runs", total=len(tasks), done=sum(map(is_finished, tasks)))
        for task, note in run_side_by_side(
            _train_silently, tasks, jobs=config.jobs, is_done=is_finished, say=progress.say
        ):
            progress.advance("runs", f"{task.name}: {note}")


def _train_silently(task: VaeTask) -> str:
    return train_task(task, Silent())


def _write_report(config: Config, dataset: ImageDataset, folder: RunFolder) -> Report:
    report = _build_report(config, dataset, folder)
    return finish(folder, report)


def _build_report(config: Config, dataset: ImageDataset, folder: RunFolder) -> Report:
    records = folder.read_metrics()
    specs, machine = config.estimators, folder.machine
    tasks = config.tasks(folder.path)
    table = summary_table(records, specs, config.num_epochs, _table_note(config))
    unfinished = sum(not is_finished(task, records) for task in tasks)
    return Report(
        title=f"Categorical VAE on {config.dataset} ({config.binarisation})",
        summary=f"{len(specs)} estimator{'s' * (len(specs) > 1)}, {config.num_latents} codes of "
        f"{config.num_classes} classes, {config.num_epochs} epochs. Negative ELBO in nats per image: lower is better.",
        table=table,
        plots=learning_curves(records, specs),
        grids=_grids(config, dataset, folder),
        appendix={"Further measures": further_table(table)},
        facts=_facts(config, dataset, machine),
        command=command_of("catreparam run vae", config),
        warning=f"Unfinished: {unfinished} of {len(tasks)} runs. The same command resumes." if unfinished else "",
    )


def _grids(config: Config, dataset: ImageDataset, folder: RunFolder) -> list[ImageGrid]:
    tasks = [VaeTask(config, spec, config.seeds[0], folder.path) for spec in config.estimators]
    models = {task.spec: trained_model(task, dataset) for task in tasks}
    return [picture_grid(spec, model, dataset, config.binarisation) for spec, model in models.items() if model]


def _table_note(config: Config) -> str:
    bound = f" IWAE: importance-weighted bound with {config.iwae_samples} draws, last epoch." * bool(
        config.iwae_samples
    )
    return (
        f"{config.dataset}, binarisation {config.binarisation}. Values at the epoch with the best validation −ELBO, except "
        f"where the last epoch is named. Measured with {config.num_evaluation_samples} exact draws per image. ± is half the "
        f"95 % interval over seeds; differences to the best are paired by seed.{bound} Active latents (last epoch): those "
        "whose class probabilities have a variance over test images above 0.01, summed over classes. Seconds are the median "
        "training time of an epoch, without evaluation; ms per gradient that of one step's forward and backward pass."
    )


def _facts(config: Config, dataset: ImageDataset, machine: str) -> dict[str, str]:
    sizes = (
        f"{len(dataset.train):,} training, {len(dataset.validation):,} validation, {len(dataset.test):,} test images"
    )
    hidden = " ".join(map(str, config.hidden_sizes)) or "default"
    return {
        "data": f"{config.dataset}: {sizes} of {dataset.train.shape[1]}x{dataset.train.shape[2]} pixels",
        "binarisation": f"{config.binarisation}: {BINARISATIONS[config.binarisation]}",
        "codes": f"{config.num_latents} of {config.num_classes} classes, uniform prior, KL in closed form",
        "network": f"{config.network}, {config.activation}, hidden layers {hidden}",
        "optimiser": f"Adam, learning rate {config.lr:g}, batches of {config.batch_size}, {config.num_epochs} epochs",
        "draws per training step": str(config.num_samples),
        "seeds": ", ".join(map(str, config.seeds)),
        "machine": machine,
    }
