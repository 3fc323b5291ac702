"""Train the digits models that `catreparam guide` uses, and write them into one safetensors file.

Four networks, one after the other: a VQ model, a classifier for the reward, another one to judge with (other
architecture, seed and half of the training images), and a class-conditional masked-diffusion transformer over the
tokens. Stopped by Ctrl-C or a kill, the same command goes on from its last checkpoint, to the same weights.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from torch import nn
from typing_extensions import TypedDict

from catreparam.data import DATASETS, ImageDataset, load_dataset
from catreparam.experiments.guide.training import (
    Training,
    accuracy,
    classifier_training,
    prior_loss,
    prior_training,
    psnr,
    vq_training,
)
from catreparam.experiments.runs.configs import command_of, config_of_folder, identity_of
from catreparam.experiments.runs.folder import Record, RunFolder, finish, open_run_folder
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.progress import Progress, show_progress
from catreparam.experiments.runs.records import Count, Number, line
from catreparam.experiments.runs.streams import stream
from catreparam.experiments.runs.training import Diverged, Part, resume, to_tensors
from catreparam.models.classifier import HeldOutClassifier
from catreparam.models.digits_models import build_digits_models
from catreparam.models.initialise import initialise
from catreparam.models.maskgit import MaskGIT, zero_gates
from catreparam.models.vq_digits import DigitsVQ
from catreparam.report import Column, Curve, Plot, Report, Table
from catreparam.validation import check_choice, check_count


@line
class Steps(TypedDict):
    """The running mean of a network's loss."""

    stage: str
    step: Count
    loss: Number


LINES = TypeAdapter(Steps)
OUTPUT = "tokens_digits.safetensors"

QUALITIES = {
    "psnr": "PSNR of the VQ model, dB",
    "reward_accuracy": "test accuracy of the reward classifier",
    "heldout_accuracy": "test accuracy of the held-out classifier",
    "prior_loss": "prior, nats per masked test token",
}
STAGES = {
    "vq": ("VQ model", "VQ loss"),
    "reward": ("Reward classifier", "nats an image"),
    "heldout": ("Held-out classifier", "nats an image"),
    "prior": ("Prior", "nats a masked token"),
}


def report_training(folder: RunFolder, command: str) -> Report:
    """Writes the report of a run folder, finished or not, and returns it."""
    content = folder.read_config()
    config, records = content["config"], folder.read_metrics()
    weights = folder.path / OUTPUT
    finished = weights.exists()
    done = len({(r["stage"], r["step"]) for r in records})
    total = sum(-(-config[f"{name}_steps"] // config["checkpoint_every"]) for name in STAGES)
    report = Report(
        title=f"Image tokens of {config['dataset']}",
        summary=f"Weights in {weights}." if finished else "No weights yet.",
        table=Table([Column("what", "what"), Column("value", "value", ".4f")], _rows(folder) if finished else []),
        plots=[_plot(name, records) for name in STAGES if any(r["stage"] == name for r in records)],
        facts={"machine": content["facts"]["machine"], "seed": str(config["seed"])},
        command=command,
    )
    return finish(folder, report, unfinished="" if finished else f"{done} of {total} checkpoints")


def _rows(folder: RunFolder) -> list[Record]:
    """What was measured when the weights were written: it stands in their file."""
    with safe_open(folder.path / OUTPUT, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    return [{"what": title, "value": facts[key]} for key, title in QUALITIES.items()]


def _plot(name: str, records: list[Record]) -> Plot:
    title, unit = STAGES[name]
    steps = [r["step"] for r in records if r["stage"] == name]
    losses = [r["loss"] for r in records if r["stage"] == name]
    return Plot(title, "step", unit, [Curve("training, running mean", steps, losses)])


WARM_UP = 50  # steps of rising learning rate


@dataclass(frozen=True)
class Config:
    """What to train. The defaults made the shipped weights: about 20 minutes on one idle core."""

    dataset: str = "mnist"
    """mnist | mnist5k (nothing to fetch) | fashion_mnist: 28x28 images."""
    vq_steps: int = 1500
    """Training steps of the tokeniser."""
    reward_steps: int = 1500
    """Of the classifier that guides."""
    heldout_steps: int = 2000
    """Of the classifier that judges."""
    prior_steps: int = 3000
    """Of the masked diffusion prior."""
    batch_size: int = 64
    """Images in a step."""
    checkpoint_every: int = 100
    """Steps between checkpoints: a kill loses at most so many."""
    seed: int = 0
    """Of weights and batches."""
    folder: Path = Path("runs/guide-train")
    """Run folder; the weights are written there, as tokens_digits.safetensors."""

    def checked(self) -> "Config":
        """This config. Raises ValueError or TypeError naming the bad value."""
        check_choice("data set", self.dataset, [name for name in DATASETS if name != "digits8"])
        for name in ("vq_steps", "reward_steps", "heldout_steps", "prior_steps", "batch_size", "checkpoint_every"):
            check_count(name, getattr(self, name))
        return self


def run(config: Config) -> Report:
    """Trains what is not trained yet and writes the weights. Raises MissingData, RunFolderError, WriteFailed."""
    config = config.checked()
    data = load_dataset(config.dataset)
    identity, facts = identity_of(config), {"machine": describe_machine()}
    with (
        open_run_folder(config.folder, experiment="guide train", config=identity, facts=facts, lines=LINES) as folder,
        show_progress() as progress,
    ):
        models = build_digits_models()
        train_network(vq_training(data), models["vq"], config, folder, progress)
        for name in ("reward", "heldout"):
            train_network(classifier_training(data, name), models[name], config, folder, progress)
        vq = models["vq"]
        assert isinstance(vq, DigitsVQ)
        train_network(prior_training(data, vq), models["prior"], config, folder, progress)
        quality = _quality(models, data, config.seed)
        _write_weights(models, data, {"config": identity, **quality}, folder)
        return report_training(folder, command_of("catreparam guide train", config))


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew, finished or not, and returns it. Trains nothing."""
    config, folder = config_of_folder(Config, path, LINES)
    return report_training(folder, command_of("catreparam guide train", config))


def train_network(training: Training, model: nn.Module, config: Config, folder: RunFolder, progress: Progress) -> None:
    """Trains one network (built on the meta device) to its last step, from its checkpoint if there is one."""
    initialise(model, stream(config.seed, f"weights of {training.name}"))
    if isinstance(model, MaskGIT):
        zero_gates(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.lr, weight_decay=0.01)
    total = getattr(config, f"{training.name}_steps")
    parts: dict[str, Part] = {"model": model, "optimizer": optimizer}
    step = resume(folder, training.name, parts, unit="step", owns=lambda record: record["stage"] == training.name)
    progress.start(training.name, total=total, done=step)
    model.train()
    recent = next((r["loss"] for r in reversed(folder.read_metrics()) if r["stage"] == training.name), 0.0)
    while step < total:
        generator = stream(config.seed, f"{training.name} step {step}")  # a step's draws depend on nothing else
        chosen = torch.randint(training.num_examples, (config.batch_size,), generator=generator)
        optimizer.param_groups[0]["lr"] = training.lr * _warm_cosine(step, total)
        loss = training.loss(model, chosen, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        value = float(loss.detach())
        recent = 0.95 * recent + 0.05 * value if recent else value
        if not math.isfinite(recent):
            raise Diverged(f"{training.name}: the loss stopped being finite at step {step}; try another seed")
        if step % config.checkpoint_every == 0 or step == total:
            folder.append_metrics({"stage": training.name, "step": step, "loss": recent})
            folder.save_checkpoint(training.name, to_tensors(parts), {"step": step})
        progress.advance(training.name, f"loss {recent:.4f}")
    model.eval().requires_grad_(False)


def _warm_cosine(step: int, total: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / total))


def _quality(models: dict[str, nn.Module], data: ImageDataset, seed: int) -> dict[str, float]:
    vq = models["vq"]
    assert isinstance(vq, DigitsVQ)
    test = dataclasses.replace(data, train=data.test, train_labels=data.test_labels)
    return {
        "psnr": psnr(vq, data.test),
        "reward_accuracy": accuracy(models["reward"], data.test, data.test_labels),
        "heldout_accuracy": accuracy(models["heldout"], data.test, data.test_labels),
        "prior_loss": prior_loss(prior_training(test, vq), models["prior"], stream(seed, "test of the prior")),
    }


@torch.no_grad()
def _write_weights(models: dict[str, nn.Module], data: ImageDataset, facts: Record, folder: RunFolder) -> None:
    """One file in half precision: parameters stay well inside its range, and it halves the package."""
    states = {name: model.state_dict() for name, model in models.items()}
    tensors = {f"{name}.{key}": value.half().contiguous() for name in states for key, value in states[name].items()}
    heldout = models["heldout"]
    assert isinstance(heldout, HeldOutClassifier)
    features = torch.cat([heldout.features(batch) for batch in data.test.split(1000)])
    groups = [features[data.test_labels == label] for label in range(10)] + [features]  # each label, then all
    tensors["reference.mean"] = torch.stack([group.mean(0) for group in groups])
    tensors["reference.covariance"] = torch.stack([group.T.cov() for group in groups])
    folder.write(OUTPUT, safetensors.torch.save(tensors, {"facts": json.dumps(facts)}))
