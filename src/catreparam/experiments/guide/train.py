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
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from catreparam.data import DATASETS, ImageDataset, load_dataset
from catreparam.experiments.guide.stages import (
    Stage,
    accuracy,
    classifier_stage,
    prior_loss,
    prior_stage,
    psnr,
    vq_stage,
)
from catreparam.experiments.guide.train_report import OUTPUT, report_training
from catreparam.experiments.runs.configs import command_of, config_of_folder
from catreparam.experiments.runs.folder import RunFolder, open_run_folder
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.progress import Progress, show_progress
from catreparam.experiments.runs.streams import stream
from catreparam.models.classifier import HeldOutClassifier
from catreparam.models.digits_models import build_digits_models
from catreparam.models.initialise import initialise
from catreparam.models.maskgit import MaskGIT, zero_gates
from catreparam.models.vq_digits import DigitsVQ
from catreparam.report import Report
from catreparam.validation import check_choice, check_count

WARM_UP = 50  # steps of rising learning rate


@dataclass(frozen=True)
class Config:
    """What to train. The defaults made the shipped weights: about 20 minutes on one idle core."""

    dataset: str = "mnist"
    """mnist | mnist5k (nothing to fetch) | fashion_mnist: 28x28 images."""
    vq_steps: int = 1500
    reward_steps: int = 1500
    heldout_steps: int = 2000
    prior_steps: int = 3000
    batch_size: int = 64
    checkpoint_every: int = 100
    """Steps between checkpoints: a kill loses at most so many."""
    seed: int = 0
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
    identity = {key: value for key, value in dataclasses.asdict(config).items() if key != "folder"}
    facts = {"machine": describe_machine()}
    with (
        open_run_folder(config.folder, experiment="guide train", config=identity, facts=facts) as folder,
        show_progress() as progress,
    ):
        models = build_digits_models()
        train_stage(vq_stage(data), models["vq"], config, folder, progress)
        for name in ("reward", "heldout"):
            train_stage(classifier_stage(data, name), models[name], config, folder, progress)
        vq = models["vq"]
        assert isinstance(vq, DigitsVQ)
        train_stage(prior_stage(data, vq), models["prior"], config, folder, progress)
        quality = _quality(models, data, config.seed)
        _write_weights(models, data, {"config": identity, **quality}, folder)
        return report_training(folder, command_of("catreparam guide train", config))


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew, finished or not, and returns it. Trains nothing."""
    config, folder = config_of_folder(Config, path)
    return report_training(folder, command_of("catreparam guide train", config.checked()))


def train_stage(stage: Stage, model: nn.Module, config: Config, folder: RunFolder, progress: Progress) -> None:
    """Trains one network (built on the meta device) to its last step, from its checkpoint if there is one."""
    initialise(model, stream(config.seed, f"weights of {stage.name}"))
    if isinstance(model, MaskGIT):
        zero_gates(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.lr, weight_decay=0.01)
    total = getattr(config, f"{stage.name}_steps")
    step = _restore(stage, model, optimizer, folder)
    progress.start(stage.name, total=total, done=step)
    model.train()
    recent = 0.0
    while step < total:
        generator = stream(config.seed, f"{stage.name} step {step}")  # a step's draws depend on nothing else
        chosen = torch.randint(stage.num_examples, (config.batch_size,), generator=generator)
        optimizer.param_groups[0]["lr"] = stage.lr * _warm_cosine(step, total)
        loss = stage.loss(model, chosen, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        value = float(loss.detach())
        recent = 0.95 * recent + 0.05 * value if recent else value
        if not math.isfinite(recent):
            raise ValueError(f"{stage.name}: the loss stopped being finite at step {step}; try another seed")
        if step % config.checkpoint_every == 0 or step == total:
            folder.append_metrics({"stage": stage.name, "step": step, "loss": recent})
            folder.save_checkpoint(stage.name, _to_tensors(model, optimizer), {"step": step})
        progress.advance(stage.name, f"loss {recent:.4f}")
    model.eval().requires_grad_(False)


def _warm_cosine(step: int, total: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / total))


def _to_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()})
    return tensors


def _restore(stage: Stage, model: nn.Module, optimizer: torch.optim.Optimizer, folder: RunFolder) -> int:
    """Loads the checkpoint of a stage, if any, drops metrics from after it, and returns the steps done."""
    checkpoint = folder.load_checkpoint(stage.name)
    step = checkpoint[1]["step"] if checkpoint else 0
    if checkpoint:
        model.load_state_dict({k.removeprefix("model."): v for k, v in checkpoint[0].items() if k[:6] == "model."})
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in checkpoint[0].items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    records = folder.read_metrics()
    kept = [record for record in records if record["stage"] != stage.name or record["step"] <= step]
    if len(kept) < len(records):
        folder.replace_metrics(kept)
    return step


def _quality(models: dict[str, nn.Module], data: ImageDataset, seed: int) -> dict[str, float]:
    vq = models["vq"]
    assert isinstance(vq, DigitsVQ)
    test = dataclasses.replace(data, train=data.test, train_labels=data.test_labels)
    return {
        "psnr": psnr(vq, data.test),
        "reward_accuracy": accuracy(models["reward"], data.test, data.test_labels),
        "heldout_accuracy": accuracy(models["heldout"], data.test, data.test_labels),
        "prior_loss": prior_loss(prior_stage(test, vq), models["prior"], stream(seed, "test of the prior")),
    }


@torch.no_grad()
def _write_weights(models: dict[str, nn.Module], data: ImageDataset, facts: dict[str, Any], folder: RunFolder) -> None:
    """One file in half precision: parameters stay well inside its range, and it halves the package."""
    tensors = {f"{name}.{key}": value.half() for name, model in models.items() for key, value in _state(model).items()}
    heldout = models["heldout"]
    assert isinstance(heldout, HeldOutClassifier)
    features = torch.cat([heldout.features(batch) for batch in data.test.split(1000)])
    groups = [features[data.test_labels == label] for label in range(10)] + [features]  # each label, then all
    tensors["reference.mean"] = torch.stack([group.mean(0) for group in groups])
    tensors["reference.covariance"] = torch.stack([group.T.cov() for group in groups])
    folder.write(OUTPUT, safetensors.torch.save(tensors, {"facts": json.dumps(facts)}))


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
