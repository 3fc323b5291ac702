"""Guide a masked-diffusion model of digits, as image tokens, by a reward: every method at equal evaluations.

The prior is unconditional; the reward pulls its samples towards a class, an amount of ink, or symmetry. The table
compares estimators and other methods, judged by a classifier that the generation never saw; `catreparam guide train`
makes the four networks anew, and `catreparam guide maskgit` guides ImageNet-sized models by a prompt.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from annotated_types import Len
from pydantic import AfterValidator, Field, TypeAdapter
from torch import Tensor
from typing_extensions import TypedDict

from catreparam.experiments.guide.config import PRESETS, Config
from catreparam.experiments.guide.methods import CANDIDATES, generate, is_gradient_method
from catreparam.experiments.guide.report import report_guide
from catreparam.experiments.guide.rewards import RewardSpec
from catreparam.experiments.runs.cells import run_cells
from catreparam.experiments.runs.configs import config_of_folder
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.runs.records import Number, Seconds, line
from catreparam.experiments.runs.streams import stream
from catreparam.guidance import RoundInfo, on_embeddings
from catreparam.models.digits_models import load_digits_models
from catreparam.models.maskgit import MaskGIT, MaskGITDenoiser
from catreparam.report import Report, write_atomically

__all__ = ["PRESETS", "Config", "report_folder", "run"]

Tokens = Annotated[list[Annotated[int, Field(ge=0, lt=64)]], Len(49, 49)]


@line
class Step(TypedDict):
    """A step of an optimisation, means over the images."""

    reward: Number
    kl: Number


@line
class Generated(TypedDict):
    """One batch of images."""

    method: str
    strength: Number
    seed: int
    tokens: Annotated[list[Tokens], Len(1)]
    reward: Annotated[list[Number], Len(1)]
    prior_log_prob: Annotated[list[Number], Len(1)]
    kl: list[Number] | None
    evaluations: Number
    seconds: Seconds
    trace: list[Step]
    frames: list[list[Tokens]] | None


def _level(record: Generated) -> Generated:
    sizes = {len(record[key]) for key in ("tokens", "reward", "prior_log_prob")} | {
        len(record["kl"] or record["tokens"])
    }
    if len(sizes) > 1 or len({len(row) for row in record["frames"] or ()}) > 1:
        raise ValueError("the tokens, reward, prior_log_prob, kl and frames are not of as many images")
    return record


LINES = TypeAdapter(Annotated[Generated, AfterValidator(_level)])

NUM_FRAMES = 10  # pictures a row of the grid over rounds


def run(config: Config) -> Report:
    """Generates what is missing, writes the report into the run folder, and returns it.

    Raises: ValueError for bad settings and rewards; RunFolderError, WriteFailed as their names say. After a kill the
        same command goes on, within a generation from its last round.
    """
    config = config.checked()
    load_digits_models(config.weights)  # a damaged file is one error now, not one for every method
    with run_cells("guide", config, config.keys(), generate_cell, config.run_folder(), LINES) as folder:
        return report_guide(config, folder)


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew and returns it. Generates nothing."""
    config, folder = config_of_folder(Config, path, LINES)
    return report_guide(config, folder)


def generate_cell(config: Config, method: str, strength: float, seed: int) -> Record:
    """One batch of images by one method: tokens, and their reward, KL and prior log-probability."""
    models = load_digits_models(config.weights)
    denoiser = MaskGITDenoiser(models.prior) if config.label is None else _Conditioned(models.prior, config.label)
    score = RewardSpec.parse(config.reward).score(models.reward, config.num_images)
    place = config.run_folder() / "generations"  # what a killed generation goes on from
    place.mkdir(parents=True, exist_ok=True)
    name = f"{method}-{strength:g}-{seed}".replace(":", "-").replace(",", "-")
    state = place / f"{name}.state"
    frames = Frames(place / f"{name}.frames") if config.shows_rounds(method, strength, seed) else None
    began = time.perf_counter()
    generation = generate(
        method,
        strength,
        denoiser,
        on_embeddings(lambda embedded: score(models.vq.decode(embedded)), models.vq.codebook),
        torch.full((config.num_images, 49), denoiser.mask_token),
        budget=config.budget,
        codebook=models.vq.codebook,
        lr=config.lr,
        num_samples=config.num_samples,
        forgetting=config.forgetting,
        order=config.order,
        checkpoint=state,
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
        "trace": generation.trace.rows if is_gradient_method(method) else [],
        "frames": None if frames is None else frames.read().tolist(),
    }


class _Conditioned(MaskGITDenoiser):
    """The denoiser with one class for everything. Its name stands in the checkpoints of generations."""

    def __init__(self, model: MaskGIT, label: int) -> None:
        super().__init__(model)
        self.label = label

    def forward(self, tokens: Tensor, labels: Any = None) -> Tensor:
        return super().forward(tokens, self.label)


@dataclass(frozen=True)
class Frames:
    """Keeps what every round proposes for the first few images, in a file, so that a resumed run has all rounds."""

    path: Path

    def __call__(self, info: RoundInfo) -> None:
        """Adds the frame of a round; frames of rounds that are made again are replaced."""
        new = info.clean[None, :NUM_FRAMES]
        frames = torch.cat([self.read()[: info.round_index], new]) if info.round_index else new
        write_atomically(self.path, safetensors.torch.save({"frames": frames.contiguous()}))

    def read(self) -> Tensor:
        """Tokens [round, image, 49]. Raises ValueError if the file is damaged."""
        try:
            return safetensors.torch.load(self.path.read_bytes())["frames"]
        except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
            state = self.path.with_suffix(".state").name
            raise ValueError(
                f"{self.path} is damaged ({error}); delete it and {state}, and this generation starts over"
            ) from error
