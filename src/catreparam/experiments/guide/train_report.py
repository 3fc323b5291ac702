"""The report of `catreparam guide train`: losses over steps, and what the finished networks can do."""

import json

from safetensors import safe_open

from catreparam.experiments.runs.finish import finish
from catreparam.experiments.runs.folder import Record, RunFolder
from catreparam.report import Column, Curve, Plot, Report, Table

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
