"""What `catreparam run vae` can be asked for."""

import dataclasses
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

from catreparam.data import DATASETS
from catreparam.data.digits import BINARISATIONS
from catreparam.experiments.runs.configs import check_room, check_seeds, identity_of
from catreparam.experiments.runs.estimator_specs import MAIN_ESTIMATORS, normalise_specs, try_estimator
from catreparam.experiments.runs.machine import check_device
from catreparam.extras import install
from catreparam.models.vae import ACTIVATIONS, NETWORKS, default_hidden_sizes
from catreparam.validation import check_choice, check_count, check_number

LARGEST_IMAGE = 784  # pixels


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
    """Images in a training step."""
    num_epochs: int = 50
    """Passes over the training images."""
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
    """cpu | cuda | cuda:1 and so on."""
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
        check_seeds("seeds", self.seeds)
        for size in self.hidden_sizes:
            check_count("hidden_sizes", size)
        hidden = self.hidden_sizes or default_hidden_sizes(LARGEST_IMAGE)
        layers = itertools.pairwise((LARGEST_IMAGE, *hidden, self.num_latents * self.num_classes))
        check_room(
            "num_latents, num_classes and hidden_sizes: the networks' weights", 2 * sum(a * b for a, b in layers)
        )
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


def check_tensorboard() -> None:
    """Raises ValueError unless TensorBoard is installed."""
    try:
        import tensorboard  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f"--tensorboard needs the package: {install('tensorboard')}") from error
