"""Training and evaluating one categorical VAE: an epoch, an evaluation, and all that changes meanwhile."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from catreparam.categorical import draw_one_hot
from catreparam.data.digits import binarise
from catreparam.estimators import Estimator, expectation
from catreparam.experiments.runs.estimator_specs import learned_parameters
from catreparam.experiments.runs.streams import stream
from catreparam.experiments.runs.training import Diverged, Part
from catreparam.experiments.vae.team import Team
from catreparam.models.vae import CategoricalVAE
from catreparam.objectives.elbo import (
    active_latents,
    importance_weighted_bound,
    kl_to_uniform_prior,
    negative_elbo,
    negative_reconstruction,
)

ALONE = Team()
EVALUATION_CHUNK = 1000  # images at a time, to bound memory
BOUND_CHUNK = 4000  # images times samples at a time


@dataclass
class TrainingState:
    """All that changes while a VAE trains. Each use of randomness has a generator of its own, so that estimators
    which draw different amounts of noise still see the same initial weights, batches and pixels for one seed."""

    model: CategoricalVAE
    estimator: Estimator
    optimizer: torch.optim.Optimizer
    generators: dict[str, Generator]  # "batches" (on the CPU), "codes", "pixels"
    epoch: int = 0

    def parts(self) -> dict[str, Part]:
        """Everything by the name that it has in a checkpoint."""
        generators = {f"generator.{name}": generator for name, generator in self.generators.items()}
        return {"model": self.model, "optimizer": self.optimizer, **generators, "estimator": self.estimator}


def new_state(
    image_shape: tuple[int, int],
    *,
    estimator: Estimator,
    num_latents: int,
    num_classes: int,
    hidden_sizes: tuple[int, ...],
    network: str = "mlp",
    activation: str = "leaky_relu",
    lr: float,
    seed: int,
    device: str,
) -> TrainingState:
    """Initial weights, Adam, and generators, all determined by the seed (and not by the estimator)."""
    model = CategoricalVAE(
        image_shape,
        num_latents=num_latents,
        num_classes=num_classes,
        hidden_sizes=hidden_sizes,
        network=network,
        activation=activation,
        generator=stream(seed, "weights"),
    ).to(device)
    fused = torch.device(device).type in ("cpu", "cuda")  # a third of the time of Adam's separate operations
    optimizer = torch.optim.Adam([*model.parameters(), *learned_parameters(estimator, device)], lr=lr, fused=fused)
    generators = {name: stream(seed, name, device) for name in ("codes", "pixels")}
    return TrainingState(model, estimator, optimizer, {"batches": stream(seed, "batches"), **generators})


class EpochStats(NamedTuple):
    """What an epoch of training says of itself."""

    loss: float  # mean per image, as the estimator's own draws saw it
    gradient_seconds: float  # mean time of one step's gradient: encoder, estimator, decoder and backward, without Adam


def train_epoch(
    state: TrainingState,
    images: Float[Tensor, "n h w"],
    *,
    binarisation: str,
    batch_size: int,
    num_samples: int,
    team: Team = ALONE,
) -> EpochStats:
    """One pass over grey images in random order; a team shares every batch out among its processes.

    Raises: Diverged when logits or loss are not finite; the state then is not worth keeping.
    """
    model, generators = state.model.train(), state.generators
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    order = torch.randperm(len(images), generator=generators["batches"]).to(images.device)
    total = torch.zeros((), dtype=torch.float64, device=images.device)
    clock, steps = 0.0, order.split(batch_size)
    for chosen in steps:
        batch = binarise(images[chosen], binarisation, generator=generators["pixels"])  # [B, h, w]
        began = _now(images)
        own = batch[team.rows(len(batch))]
        own_logits = model.encode(own)
        logits = team.gather(own_logits, len(batch))  # [B, L, K]
        if not torch.isfinite(logits).all():
            raise Diverged(f"the encoder's logits stopped being finite in epoch {state.epoch + 1}")
        reconstruction = expectation(  # [B]
            team.restrict(negative_reconstruction(model.decode, own), len(batch)),
            logits,
            estimator=state.estimator,
            num_samples=num_samples,
            generator=generators["codes"],
        )
        kl = team.place(kl_to_uniform_prior(own_logits), len(batch))
        loss = (reconstruction + kl).sum() / len(batch)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        team.sum_gradients(parameters)
        clock += _now(images) - began
        state.optimizer.step()
        total += loss.detach() * len(chosen)
    state.epoch += 1
    total = team.total(total)
    if not torch.isfinite(total):
        raise Diverged(f"the loss stopped being finite in epoch {state.epoch}")
    return EpochStats(float(total) / len(images), clock / len(steps))


@torch.no_grad()
def evaluate(
    model: CategoricalVAE, images: Float[Tensor, "n h w"], *, num_samples: int, generator: Generator
) -> dict[str, float]:
    """Mean negative ELBO and KL per image, with `num_samples` exact draws of x ~ softmax(logits) for each image."""
    model.eval()
    totals = torch.zeros(2, dtype=torch.float64, device=images.device)
    for batch in images.split(EVALUATION_CHUNK):
        logits = model.encode(batch)
        probs = torch.softmax(logits, -1)
        for _ in range(num_samples):
            totals[0] += negative_elbo(model.decode, batch, logits, draw_one_hot(probs, generator)).sum() / num_samples
        totals[1] += kl_to_uniform_prior(logits).sum()
    loss, kl = (totals / len(images)).tolist()
    return {"negative_elbo": loss, "kl": kl}


@torch.no_grad()
def evaluate_at_the_end(
    model: CategoricalVAE, images: Float[Tensor, "n h w"], *, iwae_samples: int, generator: Generator
) -> dict[str, float]:
    """Active latents, and with iwae_samples > 0 the mean importance-weighted bound with that many draws per image."""
    model.eval()
    probs = torch.cat([torch.softmax(model.encode(batch), -1) for batch in images.split(EVALUATION_CHUNK)])
    values: dict[str, float] = {"active_latents": active_latents(probs)}
    if iwae_samples:
        total = torch.zeros((), dtype=torch.float64, device=images.device)
        for batch in images.split(max(1, BOUND_CHUNK // iwae_samples)):
            logits = model.encode(batch)
            x = draw_one_hot(torch.softmax(logits, -1).expand(iwae_samples, *logits.shape), generator)
            total += importance_weighted_bound(model.decode, batch, logits, x).sum()
        values["iwae"] = float(total) / len(images)
    return values


def _now(tensor: Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
