"""Does the bias of one step tell who trains best? Ten tuned estimators on all of MNIST, in the middle of a training.

python benchmarks/one_step.py

Trains the VAE of docs/evidence.md with ReinMax for 2, then 8 epochs, and measures bias and variance of every tuned
setting on 24 images there. Writes docs/results/one-step.csv, beside the test −ELBO that the study reached. Minutes.
"""

import csv
import json
from pathlib import Path

import torch

from catreparam import measure
from catreparam.data import load_dataset
from catreparam.data.digits import binarise
from catreparam.estimators.joint import Objective
from catreparam.experiments.runs.estimator_specs import build_estimator
from catreparam.experiments.vae.training import TrainingState, new_state, train_epoch
from catreparam.gradients import reference_gradient
from catreparam.objectives.elbo import negative_reconstruction

STUDY = Path("docs/results/vae-mnist-48x2")
OUT = Path("docs/results/one-step.csv")
MEASURED = ("squared_bias", "squared_bias_stderr", "variance", "cosine")
EPOCHS, NUM_IMAGES, NUM_DRAWS, SEED = (2, 8), 24, 2000, 1000


def main() -> None:
    settings = json.loads((STUDY / "settings.json").read_text())["settings"]
    with (STUDY / "table.csv").open() as file:
        reached = {row["estimator"]: float(row["test"]) for row in csv.DictReader(file)}
    data = load_dataset("mnist")
    state = new_state(
        (28, 28),
        estimator=build_estimator("reinmax"),
        num_latents=48,
        num_classes=2,
        hidden_sizes=(512, 256),
        lr=1e-3,
        seed=SEED,
        device="cpu",
    )
    rows = []
    for epochs in EPOCHS:
        while state.epoch < epochs:
            train_epoch(state, data.train, binarisation="threshold", batch_size=200, num_samples=1)
        objective, logits = codes_of(state, data.validation[:NUM_IMAGES])
        generator = torch.Generator().manual_seed(SEED)
        drawn = {"reference": reference_gradient(objective, logits, generator=generator), "generator": generator}
        for name, chosen in settings.items():
            estimator = build_estimator(chosen["spec"])
            stats = measure(objective, logits, estimator=estimator, num_draws=NUM_DRAWS, **drawn)
            row = {"epochs": epochs, "estimator": name, "setting": chosen["spec"], "test": reached[name]}
            rows.append(row | {key: round(getattr(stats, key), 5) for key in MEASURED})
            print(rows[-1], flush=True)
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def codes_of(state: TrainingState, images: torch.Tensor) -> tuple[Objective, torch.Tensor]:
    """The reconstruction loss of a few images as a function of their codes, and the logits of the codes."""
    pixels = binarise(images, "threshold")
    with torch.no_grad():
        logits = state.model.eval().encode(pixels)
    return negative_reconstruction(state.model.decode, pixels), logits


if __name__ == "__main__":
    main()
