"""What an estimator costs in a training step of the categorical VAE (48 x 2, batch 200), beside plain straight-through.

python benchmarks/training_step.py [--rounds N] [--estimators NAME ...]

Steps of all estimators take turns in shuffled order in one process; medians, and their ratio to straight-through.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch

from catreparam.estimators import expectation
from catreparam.experiments.runs.estimator_specs import build_estimator
from catreparam.models.vae import CategoricalVAE
from catreparam.objectives.elbo import kl_to_uniform_prior, negative_reconstruction

DEFAULT = ("straight_through", "gumbel_softmax", "reinmax", "redge", "exact_redge")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--estimators", nargs="*", default=DEFAULT)
    options = parser.parse_args()
    steps = {name: training_step(name) for name in options.estimators}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(0)
    for turn in range(options.rounds + 5):
        for name in order.sample(list(steps), len(steps)):
            started = time.perf_counter()
            steps[name]()
            if turn >= 5:
                seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds[options.estimators[0]])
    for name, values in seconds.items():
        low, middle, high = statistics.quantiles(values, n=4)
        spread = 500 * (high - low)
        print(f"{name:24s} {1e3 * middle:7.2f} ± {spread:.2f} ms   {middle / base:6.3f} × {options.estimators[0]}")


def training_step(spec: str) -> Callable[[], None]:
    """One step of Adam on a batch of random binary images."""
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(200, 28, 28, generator=generator) < 0.2).float()
    model = CategoricalVAE((28, 28), num_latents=48, num_classes=2, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    estimator = build_estimator(spec)

    def step() -> None:
        logits = model.encode(images)
        objective = negative_reconstruction(model.decode, images)
        loss = expectation(objective, logits, estimator=estimator, generator=generator).mean()
        loss = loss + kl_to_uniform_prior(logits).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
