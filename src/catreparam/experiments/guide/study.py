"""Guide a masked-diffusion model of digits, as image tokens, by a reward: every method at equal evaluations.

The prior is unconditional; the reward pulls its samples towards a class, an amount of ink, or symmetry. The table
compares estimators and other methods, judged by a classifier that the generation never saw; `catreparam guide train`
makes the four networks anew, and `catreparam guide maskgit` guides ImageNet-sized models by a prompt.
"""

import dataclasses
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from catreparam.experiments.guide.methods import (
    CANDIDATES,
    OTHER_METHODS,
    Budget,
    check_methods,
    generate,
    is_gradient_method,
    strengths,
)
from catreparam.experiments.guide.report import write_guide_report
from catreparam.experiments.guide.rewards import RewardSpec, token_reward
from catreparam.experiments.runs.cells import run_cells
from catreparam.experiments.runs.configs import config_of_folder
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.runs.streams import stream
from catreparam.guidance import RoundInfo
from catreparam.masked_diffusion.orders import ORDERS
from catreparam.models.digits_models import DigitsModels, load_digits_models
from catreparam.models.maskgit import MaskGITDenoiser
from catreparam.report import Report, write_atomically
from catreparam.validation import check_choice, check_count, check_number

NUM_FRAMES = 10  # pictures a row of the grid over rounds

RIVALS = ("unguided", "best_of_n", "svdd", "svdd_direct", "smc", "aps", "entrgi")
ESTIMATORS = ("straight_through", "gumbel_softmax", "reinmax", "redge", "exact_redge")


@dataclass(frozen=True)
class Config:
    """What to generate. The defaults take a few minutes on two cores."""

    reward: str = "class:3"
    """class:3 | class:all | logit:3 | ink:0.2 | symmetry | imagenet:281 (with the extra packages)."""
    estimator: tuple[str, ...] = ("straight_through", "reinmax", "exact_redge:t1=0.7,num_noises=4")
    """Estimators, each with hyperparameters if wanted: exact_redge:num_noises=2,t1=0.5."""
    rivals: tuple[str, ...] = ("unguided", "best_of_n")
    """Other methods: unguided best_of_n svdd svdd_direct smc aps entrgi."""
    kl_weights: tuple[float, ...] = (0.02, 0.1, 0.5)
    """Weights of the KL to the prior, for methods that optimise logits."""
    reward_weights: tuple[float, ...] = (1.0, 8.0)
    """Weights of the reward, for svdd and smc."""
    num_images: int = 50
    """Images for each method, weight and seed."""
    num_rounds: int = 7
    """Rounds of unmasking."""
    num_steps: int = 10
    """Steps of Adam in a round."""
    num_samples: int = 1
    """Draws a step, for methods that optimise logits; their steps are cut to keep the evaluations."""
    lr: float = 0.15
    forgetting: float = 0.0
    """Part of the earlier rounds' optimisation that a round forgets; 1 starts every round at the prior."""
    order: str = "confidence"
    """ancestral | random | confidence | halton: which tokens are revealed first."""
    label: int | None = None
    """Condition the prior on a class; by default it is unconditional."""
    seeds: tuple[int, ...] = (0,)
    weights: str | None = None
    """File of networks made by `catreparam guide train`; default the shipped ones."""
    jobs: int = 1
    """Generations side by side, each on one thread."""
    folder: Path | None = None
    """Run folder; default runs/guide-REWARD. The same command resumes there."""

    def checked(self) -> "Config":
        """This config with methods in one spelling. Raises ValueError or TypeError naming the bad value."""
        for name in ("num_images", "num_rounds", "num_steps", "num_samples", "jobs"):
            check_count(name, getattr(self, name))
        check_number("lr", self.lr, above=0.0)
        check_number("forgetting", self.forgetting, least=0.0, most=1.0)
        check_choice("order", self.order, ORDERS)
        for name in ("kl_weights", "reward_weights"):
            for weight in getattr(self, name):
                check_number(name, weight, least=0.0)
        for name in ("kl_weights", "reward_weights", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must be one or several different numbers, got {values}")
        if self.label is not None and not 0 <= self.label <= 9:
            raise ValueError(f"label must lie in [0, 9], got {self.label}")
        for rival in self.rivals:
            check_choice("rival", rival, OTHER_METHODS)
        RewardSpec.parse(self.reward).targets(1)
        check_methods((*self.rivals, *self.estimator))
        return dataclasses.replace(self, estimator=check_methods(self.estimator))

    @property
    def methods(self) -> tuple[str, ...]:
        """Everything that is compared."""
        return (*self.rivals, *self.estimator)

    @property
    def budget(self) -> Budget:
        """What every method may spend on a sequence."""
        return Budget(self.num_rounds, self.num_steps)

    def run_folder(self) -> Path:
        """Where the run lives."""
        return self.folder or Path("runs") / f"guide-{self.reward.replace(':', '-')}"

    def keys(self) -> list[dict[str, Any]]:
        """Every (method, strength, seed) to generate: all methods of a seed before the next seed."""
        return [
            {"method": method, "strength": strength, "seed": seed}
            for seed, method in itertools.product(self.seeds, self.methods)
            for strength in strengths(method, self.kl_weights, self.reward_weights)
        ]

    def shows_rounds(self, method: str, strength: float, seed: int) -> bool:
        """Whether this generation is pictured round by round: one for each method that optimises logits."""
        middle = self.kl_weights[len(self.kl_weights) // 2]
        return is_gradient_method(method) and strength == middle and seed == self.seeds[0]


PRESETS = {
    "quick": Config(num_images=20, kl_weights=(0.05,), folder=Path("runs/guide-quick")),
    "paper": Config(
        reward="class:all",
        estimator=(*ESTIMATORS, "exact_redge:t1=0.7,num_noises=4"),
        rivals=RIVALS,
        kl_weights=(0.02, 0.05, 0.1, 0.2, 0.5),
        reward_weights=(0.5, 1.0, 2.0, 8.0),
        folder=Path("runs/guide-paper"),
        num_images=100,
        seeds=(0, 1, 2),
    ),
}


def run(config: Config) -> Report:
    """Generates what is missing, writes the report into the run folder, and returns it.

    Raises: ValueError for bad settings and rewards; RunFolderError, WriteFailed as their names say. After a kill the same
        command goes on, within a generation from its last round.
    """
    config = config.checked()
    load_digits_models(config.weights)  # a damaged file is one error now, not one for every method
    with run_cells("guide", config, config.keys(), generate_cell, config.run_folder()) as folder:
        return write_guide_report(config, folder)


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew and returns it. Generates nothing."""
    config, folder = config_of_folder(Config, path)
    return write_guide_report(config.checked(), folder)


def generate_cell(config: Config, method: str, strength: float, seed: int) -> Record:
    """One batch of images by one method: tokens, and their reward, KL and prior log-probability."""
    models = load_digits_models(config.weights)
    denoiser = MaskGITDenoiser(models.prior)
    if config.label is not None:
        denoiser = _Conditioned(denoiser, config.label)
    score = RewardSpec.parse(config.reward).score(models.reward, config.num_images)
    place = config.run_folder() / "generations"  # what a killed generation goes on from
    place.mkdir(parents=True, exist_ok=True)
    name = f"{method}-{strength:g}-{seed}".replace(":", "-").replace(",", "-")
    state = place / f"{name}.state"
    gradient = is_gradient_method(method)
    frames = Frames(place / f"{name}.frames") if config.shows_rounds(method, strength, seed) else None
    began = time.perf_counter()
    generation = generate(
        method,
        strength,
        denoiser,
        token_reward(score, models.vq.codebook, models.vq.decode),
        torch.full((config.num_images, 49), denoiser.mask_token),
        budget=config.budget,
        codebook=models.vq.codebook,
        lr=config.lr,
        num_samples=config.num_samples,
        forgetting=config.forgetting,
        order=config.order,
        checkpoint=state if gradient else None,
        callback=frames,
        generator=stream(seed, "generation"),
    )
    spent = generation.evaluations
    state.unlink(missing_ok=True)
    return {
        "tokens": generation.tokens.tolist(),
        "reward": generation.reward.tolist(),
        "prior_log_prob": generation.prior_log_prob.tolist(),
        "kl": None if generation.kl is None else generation.kl.tolist(),
        "evaluations": spent.model + spent.reward + spent.reward_gradient,
        "candidates": config.budget.candidates(method) if method in CANDIDATES else None,
        "seconds": time.perf_counter() - began,
        "trace": generation.trace.rows if gradient else [],
        "frames": None if frames is None else frames.read(),
    }


class Frames:
    """Keeps what every round proposes for the first few images, in a file, so that a resumed run has all rounds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, info: RoundInfo) -> None:
        """Adds the frame of a round; frames of rounds that are made again are replaced."""
        new = info.clean[None, :NUM_FRAMES]
        frames = torch.cat([self._tensor()[: info.round_index], new]) if info.round_index else new
        write_atomically(self.path, safetensors.torch.save({"frames": frames.contiguous()}))

    def read(self) -> list[Any]:
        """Tokens [round, image, 49] as lists."""
        return self._tensor().tolist()

    def _tensor(self) -> Tensor:
        if not self.path.exists():
            return torch.zeros(0, 0, 0, dtype=torch.long)
        return safetensors.torch.load(self.path.read_bytes())["frames"]


class _Conditioned(MaskGITDenoiser):
    """The denoiser with one class for everything."""

    def __init__(self, denoiser: MaskGITDenoiser, label: int) -> None:
        super().__init__(denoiser.model)
        self.label = label

    def forward(self, tokens: Tensor, labels: Any = None) -> Tensor:
        return super().forward(tokens, self.label)


__all__ = ["PRESETS", "Config", "DigitsModels", "generate_cell", "report_folder", "run"]
