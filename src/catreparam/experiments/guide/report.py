"""The report of `catreparam guide`: table at every strength and at equal KL, curves, pictures over the rounds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from catreparam.experiments.guide.config import Config
from catreparam.experiments.guide.equal_kl import NOTE, Point, rows_at_equal_kl
from catreparam.experiments.guide.methods import strengths
from catreparam.experiments.guide.rewards import RewardSpec
from catreparam.experiments.runs.configs import command_of
from catreparam.experiments.runs.folder import Record, RunFolder, finish
from catreparam.experiments.runs.statistics import agresti_coull_half
from catreparam.models.classifier import frechet_distance
from catreparam.models.digits_models import DigitsModels, load_digits_models
from catreparam.report import Column, Curve, ImageGrid, Plot, Report, Table

NUM_SHOWN = 12  # pictures a row of the grid of results
RESAMPLES = 60  # of the bootstrap behind the interval of the Frechet distance


@dataclass(frozen=True)
class JudgedPoint(Point):
    """A method at one strength, over all seeds, its values by wanted class: also its images and its row of the table.

    Half-widths are of 95 % intervals.
    """

    images: Tensor = field(kw_only=True)  # [n, 28, 28]
    row: Record = field(kw_only=True)


def report_guide(config: Config, folder: RunFolder) -> Report:
    """Builds the report from the metrics and writes it into the folder."""
    records = folder.read_metrics()
    models = load_digits_models(config.weights)
    points = [
        point_of(config, models, method, strength, records)
        for method in config.methods
        for strength in strengths(method, config.kl_weights, config.reward_weights)
        if _of(records, method, strength)
    ]
    rows = [{"part": "Every method at every strength", **point.row} for point in points]
    missing = len(config.keys()) - len(records)
    report = Report(
        title=f"Guided digits: reward {config.reward}",
        summary=f"{len(config.methods)} methods, {config.num_images * len(config.seeds)} images each, "
        f"{config.num_rounds} rounds, at most {config.budget.evaluations} evaluations a sequence "
        "(model, reward and gradient each count as one).",
        table=Table(_columns(config), [*rows, *_rows_at_equal_kl(points)], _note(config), group="part"),
        plots=[*_curves_against_kl(config, points), *_trace_plots(config, records)],
        grids=[*_round_grids(config, models, records), _result_grid(points)],
        facts=_facts(config, models, folder),
        command=command_of("catreparam guide", config),
    )
    return finish(folder, report, unfinished=f"{missing} of {len(config.keys())} generations" if missing > 0 else "")


@torch.no_grad()
def point_of(config: Config, models: DigitsModels, method: str, strength: float, records: list[Record]) -> JudgedPoint:
    """One point of the comparison, from the tokens of all seeds."""
    mine = _of(records, method, strength)
    images = models.vq.decode_tokens(torch.tensor([row for record in mine for row in record["tokens"]]))
    features = models.heldout.features(images)
    values = {key: [v for record in mine for v in record[key] or ()] for key in ("kl", "reward", "prior_log_prob")}
    row: Record = {"method": method, "strength": strength}
    targets, place = RewardSpec.parse(config.reward).targets(config.num_images), -1  # the moments of all labels
    wanted = torch.zeros(len(images)) if targets is None else targets.repeat(len(mine))
    if targets is not None:
        right = (models.heldout.head(features).argmax(-1) == wanted).double()
        values["accuracy"] = right.tolist()
        row["accuracy_half"] = agresti_coull_half(float(right.mean()), len(right))
        row["own_accuracy"] = float((models.reward(images).argmax(-1) == wanted).double().mean())
        place = int(targets[0]) if len(targets.unique()) == 1 else place
    reference = models.reference_mean[place], models.reference_covariance[place]
    row |= {key: fmean(known) for key, known in values.items() if known}
    row |= {key: fmean(record[key] for record in mine) for key in ("evaluations", "seconds")}
    row["distance"], row["distance_half"] = distance_with_interval(features, *reference)
    by_class = {key: _grouped(known, wanted.tolist()) for key, known in values.items() if known}
    return JudgedPoint(method, strength, by_class, images=images, row=row)


def _grouped(values: Sequence[float], labels: Sequence[int]) -> list[list[float]]:
    groups: dict[int, list[float]] = {}
    for value, label in zip(values, labels, strict=True):
        groups.setdefault(label, []).append(value)
    return list(groups.values())


def distance_with_interval(features: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """Frechet distance of features to a normal law, and 1.96 standard deviations of it under resampling."""

    def distance(sample: Tensor) -> float:
        return frechet_distance(sample.mean(0), sample.T.cov(), mean, covariance)

    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(features), (RESAMPLES, len(features)), generator=generator)
    spread = torch.tensor([distance(features[rows]) for rows in chosen]).std()
    return distance(features), 1.96 * float(spread)


def _rows_at_equal_kl(points: Sequence[Point]) -> list[Record]:
    """Held-out accuracy at equal KL, or the reward where nothing is classified."""
    has_classes = any("accuracy" in point.values for point in points)
    key, title = ("accuracy", "Held-out accuracy") if has_classes else ("reward", "Reward")
    rows = rows_at_equal_kl(points, [key])
    return [{"part": f"{title} at a KL of {row['kl']:.2f} nats", **row} for row in rows]


def _columns(config: Config) -> list[Column]:
    judged = Column("accuracy", "held-out accuracy", ".3f", "accuracy_half")
    own = Column("own_accuracy", "reward classifier's", ".3f")
    return [
        Column("method", "method"),
        Column("strength", "weight", "g"),
        Column("kl", "KL, nats", ".2f"),
        *((judged, own) if RewardSpec.parse(config.reward).targets(1) is not None else ()),
        Column("reward", "reward", ".3f", "reward_half"),
        Column("behind", "behind the best", ".3f", "behind_half"),
        Column("distance", "Fréchet distance", ".2f", "distance_half"),
        Column("prior_log_prob", "log prior", ".1f"),
        Column("evaluations", "evaluations", ".0f"),
        Column("seconds", "seconds", ".1f"),
    ]


def _note(config: Config) -> str:
    return (
        "Weight: of the KL (methods that optimise logits) or of the reward (svdd, smc). KL: of the guided from the "
        "prior's reveals, summed over the rounds; an upper bound for best_of_n and svdd, unknown for smc. ± is half a "
        "95 % interval: of a proportion, and by resampling images for the distance. Fréchet distance: between features "
        "of the held-out classifier and those of real test images"
        + (" of that class" if config.reward.startswith(("class:", "logit:")) and "all" not in config.reward else "")
        + ". Log prior: log-probability of all reveals under the prior. At equal KL: "
        + ("all classes weigh alike; " if "all" in config.reward else "")
        + "svdd may be better than shown, as its KL is a bound. "
        + NOTE
    )


def _curves_against_kl(config: Config, points: Sequence[JudgedPoint]) -> list[Plot]:
    """Reward and held-out accuracy against the KL, a curve a method."""
    plots = []
    for key, title in (("reward", f"reward {config.reward}"), ("accuracy", "held-out accuracy")):
        curves = []
        for method in config.methods:
            known = [p.row for p in points if p.method == method and "kl" in p.row and key in p.row]
            known.sort(key=lambda row: row["kl"])
            if known and method != "unguided":
                error = [row["accuracy_half"] for row in known] if key == "accuracy" else []
                curves.append(Curve(method, [row["kl"] for row in known], [row[key] for row in known], error))
        if curves:
            plots.append(Plot(f"{title.capitalize()} against KL", "KL to the prior, nats", title, curves, log_x=True))
    return plots


def _trace_plots(config: Config, records: list[Record]) -> list[Plot]:
    """How reward and KL go along the steps of the optimisation, at the middle weight."""
    shown = {record["method"]: record["trace"] for record in reversed(records) if record["frames"]}
    traces = {method: shown[method] for method in config.methods if method in shown}
    starts = next(([i for i, row in enumerate(t) if row["step"] == 0] for t in traces.values() if t), [])
    note = "Mean over the images; every round, from a dotted line on, starts anew from the prior of what is revealed."
    label = {"reward": "reward", "kl": "KL to the prior, nats"}
    return [
        Plot(
            title,
            "step of all rounds",
            label[key],
            [Curve(m, range(len(t)), [row[key] for row in t]) for m, t in traces.items()],
            note,
            marks=starts,
            whole=True,
        )
        for key, title in (("reward", "Reward while optimising"), ("kl", "KL while optimising"))
        if traces
    ]


@torch.no_grad()
def _round_grids(config: Config, models: DigitsModels, records: list[Record]) -> list[ImageGrid]:
    grids = []
    for record in [record for record in records if record["frames"]]:
        frames = torch.tensor(record["frames"])  # [rounds, images, 49]
        images = models.vq.decode_tokens(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        title = f"{record['method']}, weight {record['strength']:g}: what each round proposes"
        grids.append(ImageGrid(title, images, "A row a round, from the first (all masked) to the last."))
    return grids


def _result_grid(points: Sequence[JudgedPoint]) -> ImageGrid:
    shown = min(NUM_SHOWN, *(len(point.images) for point in points)) if points else 0
    images = torch.stack([point.images[:shown] for point in points]) if points else torch.zeros(1, 1, 28, 28)
    names = "; ".join(f"{p.method}{f' {p.strength:g}' if p.strength else ''}" for p in points)
    return ImageGrid("Results", images, f"A row each: {names}.")


def _facts(config: Config, models: DigitsModels, folder: RunFolder) -> dict[str, str]:
    facts, budget = models.facts, config.budget
    counts = ", ".join(f"{name} {budget.candidates(name)}" for name in config.rivals if name in ("best_of_n", "smc"))
    return {
        "prior": f"masked diffusion over 49 tokens of {models.vq.num_codes} codes, "
        f"trained on {facts['config']['dataset']}, "
        + ("unconditional" if config.label is None else f"class {config.label}"),
        "tokens": f"VQ model of {facts['psnr']:.1f} dB",
        "classifiers": f"reward {facts['reward_accuracy']:.3f}, held out {facts['heldout_accuracy']:.3f} "
        "on real test digits",
        "budget": f"{budget.evaluations} evaluations: {config.num_rounds} rounds of {config.num_steps} steps of Adam, "
        f"learning rate {config.lr:g}" + (f"; candidates: {counts}" if counts else ""),
        "seeds": ", ".join(map(str, config.seeds)),
        "machine": folder.machine,
    }


def _of(records: list[Record], method: str, strength: float) -> list[Record]:
    return [record for record in records if record["method"] == method and record["strength"] == strength]
