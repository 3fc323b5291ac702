"""What a wrong t1, weight, number of steps or noises costs, and whether a rule beats fixed values.

python benchmarks/settings.py [--four | --longer]

Trains the VAEs on few digits of docs/evidence.md, one draw a step, learning rate 0.001, three shapes and three seeds.
--four: four draws a step, and estimators at their defaults. --longer: 80 epochs instead of 20, with one shape and the
settings between which one has to choose. Appends to docs/results/settings.csv, or settings-four-draws.csv; what stands
there is not run again. Some 45 minutes of one core, as many for --four, and 20 for --longer.
"""

import argparse
import csv
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from catreparam.categorical import covariance_product
from catreparam.data import load_dataset
from catreparam.data.digits import binarise
from catreparam.estimators.reinmax import lambda_reinmax
from catreparam.experiments.runs.estimator_specs import build_estimator
from catreparam.experiments.runs.streams import stream
from catreparam.experiments.vae.training import evaluate, evaluate_at_the_end, new_state, train_epoch
from catreparam.schedules import LinearSchedule, ScheduledEstimator

SHAPES = {"48 of 2": (48, 2, "leaky_relu"), "24 of 4": (24, 4, "relu"), "4 of 8": (4, 8, "relu")}
SEEDS = (0, 1, 2)
FIXED = [
    "straight_through",
    "reinmax",
    *(f"redge:t1={t1}" for t1 in (0.3, 0.5, 0.7, 0.9)),
    *(f"reindge:t1={t1}" for t1 in (0.3, 0.5, 0.7, 0.9)),
    *(f"exact_redge:t1={t1},second_order_weight=0" for t1 in (0.3, 0.5, 0.7)),
    *(f"exact_redge:t1={t1},second_order_weight=1" for t1 in (0.5, 0.7, 0.9)),
    *(f"redge:t1=0.5,num_steps={steps}" for steps in (2, 8)),
    "exact_redge:t1=0.5,second_order_weight=1,num_noises=4",
    "lambda_reinmax:weight=0.75",
]
LONGER = [
    "straight_through",
    "reinmax",
    *(f"{name}:t1={t1}" for name in ("redge", "reindge") for t1 in (0.5, 0.9)),
    "exact_redge:t1=0.5,second_order_weight=0",
    "exact_redge:t1=0.7,second_order_weight=1",
    "reindge, t1 from 0.5 to 0.9",
]
FOUR = [
    "straight_through",
    "gumbel_softmax",
    "gumbel_rao:num_noises=10",
    "reinmax",
    "redge",
    "reindge",
    "exact_redge",
    "rloo",
    "reinmax_rloo",
    "reinmax_rloo:second_order_weight=0.6",
]


class LearnedWeight:
    """lambda_reinmax at one draw, its weight w learned on line against the score function.

    With s the straight-through gradient, h the second-order part and r the score function, w minimises |E[s + w h - r]|
    over the mean gradient of a batch. One half of the images gives h, the other s and r: the halves are independent, so
    that the products of their means are unbiased. Both products are averaged over steps.
    """

    def __init__(self) -> None:
        self.weight, self.moments = 1.0, torch.zeros(2, dtype=torch.float64)

    def __call__(self, objective: Any, logits: Tensor, *, generator: Generator, **_: Any) -> Tensor:
        x = lambda_reinmax(logits, weight=self.weight, generator=generator)
        losses = objective(x)
        x.register_hook(partial(self.learn, torch.softmax(logits.detach(), -1), x.detach(), losses.detach()))
        return losses

    def learn(self, probs: Tensor, x: Tensor, losses: Tensor, gradient: Tensor) -> None:
        """Moves the weight; `gradient` is that of the batch's mean loss at x."""
        others = (losses.sum() - losses) / (len(losses) - 1)
        deviation = x - probs
        score = (losses - others)[:, None, None] * deviation / len(x)
        straight = covariance_product(probs, gradient)
        second = (deviation * (deviation * gradient).sum(-1, keepdim=True) - straight) / 2
        missing = score - straight
        means = [(second[half].sum(0), missing[half].sum(0)) for half in (slice(0, None, 2), slice(1, None, 2))]
        (h, r), (h_too, r_too) = means
        seen = torch.stack([(h * r_too).sum() + (h_too * r).sum(), 2 * (h * h_too).sum()])
        self.moments = 0.99 * self.moments + 0.01 * seen
        top, bottom = self.moments.tolist()
        self.weight = min(max(top / bottom, 0.0), 1.5) if bottom > 0 else 1.0


def by_entropy(name: str, logits: Tensor, *, generator: Generator) -> Tensor:
    """t1 of 0.5, 0.7 or 0.9 by the entropy of every row, the more of it the larger t1."""
    probs = torch.softmax(logits.detach(), -1)
    entropy = torch.special.entr(probs).sum(-1) / torch.log(torch.tensor(float(logits.shape[-1])))
    x = torch.zeros_like(logits)
    for level, t1 in enumerate((0.5, 0.7, 0.9)):
        chosen = (entropy * 3).long().clamp_max(2) == level
        if chosen.any():
            x = x.index_put((chosen,), build_estimator(f"{name}:t1={t1}")(logits[chosen], generator=generator))
    return x


def scheduled(name: str, start: float, end: float, epochs: int) -> ScheduledEstimator:
    """t1 moves evenly over the training, a step an epoch."""
    return ScheduledEstimator(name, t1=LinearSchedule(start, end, num_steps=epochs))


RULES: dict[str, Callable[[int], Any]] = {  # each made for a number of epochs
    **{
        f"{name}, t1 from {start} to {end}": partial(scheduled, name, start, end)
        for name in ("redge", "reindge")
        for start, end in ((0.9, 0.5), (0.5, 0.9))
    },
    **{f"{name}, t1 by entropy": lambda epochs, name=name: partial(by_entropy, name) for name in ("redge", "reindge")},
    "lambda_reinmax, weight learned": lambda epochs: LearnedWeight(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--longer", action="store_true", help="80 epochs, one shape")
    kinds.add_argument("--four", action="store_true", help="four draws a step, estimators at their defaults")
    given = parser.parse_args()
    epochs, shapes, settings = (80, ["48 of 2"], LONGER) if given.longer else (20, list(SHAPES), [*FIXED, *RULES])
    num_samples, settings = (4, FOUR) if given.four else (1, settings)
    out = Path("docs/results") / ("settings-four-draws.csv" if given.four else "settings.csv")
    done = set()
    if out.exists():
        with out.open() as file:
            done = {(row["codes"], row["epochs"], row["setting"], row["seed"]) for row in csv.DictReader(file)}
    for seed, shape, setting in itertools.product(SEEDS, shapes, settings):
        if (shape, str(epochs), setting, str(seed)) in done:
            continue
        row = {"codes": shape, "epochs": epochs, "setting": setting, "seed": seed}
        row |= train(shape, setting, seed, epochs, num_samples)
        begins = not out.exists()
        with out.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if begins:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)


def train(shape: str, setting: str, seed: int, epochs: int, num_samples: int) -> dict[str, Any]:
    """Test −ELBO at the best validation epoch, and the importance-weighted bound after the last one."""
    estimator = RULES[setting](epochs) if setting in RULES else build_estimator(setting)
    num_latents, num_classes, activation = SHAPES[shape]
    data = load_dataset("mnist5k")
    state = new_state(
        (28, 28),
        estimator=build_estimator("reinmax"),
        num_latents=num_latents,
        num_classes=num_classes,
        hidden_sizes=(512, 256),
        activation=activation,
        lr=1e-3,
        seed=seed,
        device="cpu",
    )
    state.estimator = estimator
    pixels = {part: binarise(getattr(data, part), "threshold") for part in ("validation", "test")}
    curves: list[tuple[float, float, int]] = []
    for epoch in range(1, epochs + 1):
        train_epoch(state, data.train, binarisation="threshold", batch_size=100, num_samples=num_samples)
        if isinstance(estimator, ScheduledEstimator):
            estimator.step()
        validation, test = (
            evaluate(state.model, images, num_samples=2, generator=stream(seed, f"evaluation {part}"))["negative_elbo"]
            for part, images in pixels.items()
        )
        curves.append((validation, test, epoch))
    _, test, best_epoch = min(curves)
    at_the_end = stream(seed, "evaluation at the end")
    bound = evaluate_at_the_end(state.model, pixels["test"], iwae_samples=64, generator=at_the_end)["iwae"]
    learned = f"{estimator.weight:.3f}" if isinstance(estimator, LearnedWeight) else ""
    return {"best_epoch": best_epoch, "test": f"{test:.3f}", "bound": f"{bound:.3f}", "last_weight": learned}


if __name__ == "__main__":
    main()
