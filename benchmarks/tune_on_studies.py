"""Three trainings for `catreparam tune training`, to see whether it recommends what the whole studies found best.

catreparam tune training --train benchmarks.tune_on_studies:mnist_48x2 --first 6 --lr 1e-3
catreparam tune training --train benchmarks.tune_on_studies:mnist_48x2 --first 30 --lr 1e-3 --estimators reinmax
catreparam tune training --train benchmarks.tune_on_studies:digits_8x4 --num-samples 4 --first 3 --lr 8e-4 2.5e-3
catreparam tune training --train benchmarks.tune_on_studies:polynomial --num-samples 2 --lr 0.02 0.05

From the root of the project, each setting in under five minutes on two cores. What the recommended settings reach in
the whole study is a run with them alone, and docs/guides/tuning.md has the table. For MNIST:

catreparam run vae --estimators reinmax:temperature=1.5 --lr 1e-3 --dataset mnist --num-latents 48 --num-classes 2
--batch-size 200 --num-epochs 60 --num-evaluation-samples 2 --seeds 0 1 2
"""

from collections.abc import Iterator

import torch

from catreparam import Estimator, expectation
from catreparam.data import ImageDataset, load_dataset
from catreparam.data.digits import binarise
from catreparam.experiments.runs.streams import stream
from catreparam.experiments.vae.training import evaluate, new_state, train_epoch
from catreparam.objectives.polynomial import Polynomial

SEED = 1000  # of no final run
SIZES = (512, 256)


def mnist_48x2(estimator: Estimator, learning_rate: float) -> Iterator[float]:
    """All of MNIST, 48 codes of 2, one draw: a value after every third of an epoch."""
    return _vae(
        estimator, learning_rate, load_dataset("mnist"), (48, 2), "leaky_relu", batch_size=200, num_samples=1, parts=3
    )


def digits_8x4(estimator: Estimator, learning_rate: float) -> Iterator[float]:
    """3,500 digits, 4 codes of 8, four draws: a value after every epoch."""
    return _vae(
        estimator, learning_rate, load_dataset("mnist5k"), (4, 8), "relu", batch_size=100, num_samples=4, parts=1
    )


def polynomial(estimator: Estimator, learning_rate: float) -> Iterator[float]:
    """128 binary variables, p = 1.5, two draws: the expected loss after every 20 steps."""
    objective, generator = Polynomial(power=1.5), stream(SEED, "draws")
    logits = torch.zeros(128, 2, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=learning_rate)
    while True:
        for _ in range(20):
            adam.zero_grad()
            expectation(
                objective, logits.expand(256, -1, -1), estimator=estimator, num_samples=2, generator=generator
            ).mean().backward()
            adam.step()
        yield float(objective.expected(logits.detach()))


def _vae(
    estimator: Estimator,
    learning_rate: float,
    data: ImageDataset,
    shape: tuple[int, int],
    activation: str,
    *,
    batch_size: int,
    num_samples: int,
    parts: int,
) -> Iterator[float]:
    """Validation −ELBO of a VAE after every `1 / parts` of an epoch."""
    state = new_state(
        (28, 28),
        estimator=estimator,
        num_latents=shape[0],
        num_classes=shape[1],
        hidden_sizes=SIZES,
        activation=activation,
        lr=learning_rate,
        seed=SEED,
        device="cpu",
    )
    judged = binarise(data.validation[:1000], "threshold")
    chunks = data.train.chunk(parts)
    while True:
        for images in chunks:
            train_epoch(state, images, binarisation="threshold", batch_size=batch_size, num_samples=num_samples)
            values = evaluate(state.model, judged, num_samples=1, generator=stream(SEED, "evaluation"))
            yield values["negative_elbo"]
