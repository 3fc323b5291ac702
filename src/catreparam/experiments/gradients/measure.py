"""Measure the gradients of estimators: bias, variance, error, law and cost, with standard errors.

Every objective depends on a few categorical variables, so that the exact gradient is known by enumeration. Your own:
`--objectives my_module:my_loss`, a function of one-hot x [*batch, num_variables, num_classes].
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from catreparam.estimators import ESTIMATORS
from catreparam.estimators.joint import Objective
from catreparam.experiments.gradients.objective_specs import build_objective, load_logits
from catreparam.experiments.runs.configs import check_distinct, check_room, check_seeds, command_of
from catreparam.experiments.runs.estimator_specs import build_estimator, normalise_specs, samples_of
from catreparam.experiments.runs.folder import Record, write_into
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.progress import show_progress
from catreparam.gradients import Reference, count_evaluations, measure, reference_gradient, seconds_per_draw
from catreparam.report import Column, Curve, Plot, Report, Table
from catreparam.validation import check_count, check_number

LAW_LIMIT = 0.02  # total variation above which people are warned

COLUMNS = (
    Column("estimator", "estimator"),
    Column("squared_bias", "bias²", ".4f", "squared_bias_stderr"),
    Column("variance", "variance", ".3f", "variance_stderr"),
    Column("mse", "MSE, one draw", ".3f", "mse_stderr"),
    Column("cosine", "cosine of mean", ".3f"),
    Column("mean_cosine", "mean cosine", ".3f"),
    Column("law_error", "law error (TV)", ".4f"),
    Column("evaluations", "evaluations"),
    Column("relative_time", "time", ".1f"),
    Column("memory", "bytes kept", ".0f"),
)
NOTE = (
    "bias², variance and MSE are relative to the squared norm of the exact gradient; ± is one standard error. bias² is "
    "an unbiased estimate and may fall below 0. Law error: total variation between the law of the hard sample and "
    "softmax(logits), less what an exact law would show with as many draws (– : the method draws exactly by "
    "construction). Evaluations: calls of the objective a draw. Time: wall time of forward and backward a draw in "
    "units of straight-through's, measured in turn in the same run, median of 7. Bytes kept: for backward, a draw."
)


@dataclass(frozen=True)
class Config:
    """What to measure."""

    objectives: tuple[str, ...] = ("quadratic", "power", "mlp", "table")
    """Built-in (quadratic | power | mlp | table | misleading) or your own as module:function."""
    estimators: tuple[str, ...] = ()
    """Names with hyperparameters: redge:num_steps=4,t1=0.5. None given: all of them with their defaults."""
    logits: str | None = None
    """Where to measure: a .npy, .safetensors or .pt file, or module:function; else normal logits of the sizes below."""
    num_variables: int = 3
    """Variables of a loss; with --logits what these have."""
    num_classes: int = 4
    """Classes of a variable; with --logits what these have."""
    logit_scale: float = 1.0
    """Standard deviation of the normal logits."""
    num_samples: int = 1
    """Samples inside one draw of the gradient (rloo takes at least 2)."""
    num_draws: int = 20_000
    """Draws of the gradient: standard errors fall with its square root."""
    seed: int = 0
    """Of the logits, the draws and a built-in objective."""
    folder: Path | None = None
    """Where to write table.md, table.csv, table.jsonl and report.html; nothing is written if it is not given."""


def run(config: Config) -> Report:
    """Measures every estimator on every objective. Raises ValueError or TypeError for a bad config."""
    check_count("num_samples", config.num_samples)
    check_count("num_draws", config.num_draws, 2)
    check_seeds("seed", [config.seed])
    check_distinct("objectives", config.objectives)
    check_number("logit_scale", config.logit_scale, least=0.0)
    specs = normalise_specs(config.estimators or tuple(ESTIMATORS))
    logits = (
        load_logits(config.logits)
        if config.logits is not None
        else draw_logits(config.num_variables, config.num_classes, config.logit_scale, config.seed)
    )
    sizes = {"num_variables": logits.shape[-2], "num_classes": logits.shape[-1]}
    objectives = {spec: build_objective(spec, **sizes, seed=config.seed) for spec in config.objectives}
    rows: list[Record] = []
    with show_progress() as progress:
        for spec, objective in objectives.items():
            generator = torch.Generator().manual_seed(config.seed)
            reference = reference_gradient(objective, logits, generator=generator)
            progress.start(spec, total=len(specs))
            group = []
            for estimator_spec in specs:
                group.append(_row(config, spec, objective, logits, reference, estimator_spec))
                progress.advance(spec, estimator_spec)
            rows += _with_times(config, objective, logits, group)
    report = Report(
        title="Gradient estimators measured",
        summary=f"{logits.shape[-2]} variables with {logits.shape[-1]} classes, {config.num_draws} draws each.",
        table=Table(COLUMNS, rows, NOTE, group="objective"),
        plots=[_plot(objective, rows) for objective in config.objectives],
        facts={"machine": describe_machine(), "seed": str(config.seed)},
        command=command_of("catreparam measure", config),
        warning=_law_warning(rows),
    )
    return write_into(config.folder, report)


def draw_logits(num_variables: int, num_classes: int, scale: float, seed: int) -> Tensor:
    """Normal logits [num_variables, num_classes] in float64, the same for the same seed."""
    check_count("num_variables", num_variables)
    check_count("num_classes", num_classes)
    check_room("num_variables * num_classes: the logits", num_variables * num_classes)
    generator = torch.Generator().manual_seed(seed + 7919)
    return scale * torch.randn(num_variables, num_classes, generator=generator, dtype=torch.float64)


def _row(config: Config, name: str, objective: Objective, logits: Tensor, reference: Reference, spec: str) -> Record:
    estimator = build_estimator(spec)
    count = samples_of(estimator, config.num_samples)
    is_exact = estimator.name == "exact"
    stats = measure(
        objective,
        logits,
        estimator=estimator,
        num_draws=min(config.num_draws, 100) if is_exact else config.num_draws,
        num_samples=count,
        reference=reference,
        generator=torch.Generator().manual_seed(config.seed + 1),
    )
    row: Record = {"objective": name, "estimator": spec, **asdict(stats)}
    row["law_error"] = None if stats.law_noise == 0.0 else max(stats.law_error - stats.law_noise, 0.0)
    counted = count_evaluations(objective, logits, estimator, count)
    return row | {"evaluations": logits.shape[-1] ** logits.shape[-2] if is_exact else counted}


def _with_times(config: Config, objective: Objective, logits: Tensor, rows: list[Record]) -> list[Record]:
    """The rows with times relative to straight-through's, lowest error first."""
    estimators = [build_estimator(row["estimator"]) for row in rows]
    counts = [samples_of(estimator, config.num_samples) for estimator in estimators]
    seconds = seconds_per_draw(objective, logits, estimators, num_samples=counts)
    names = [estimator.name for estimator in estimators]
    unit = seconds[names.index("straight_through") if "straight_through" in names else 0]
    timed = [{**row, "relative_time": time / unit} for row, time in zip(rows, seconds, strict=True)]
    return sorted(timed, key=lambda row: row["mse"])


def _law_warning(rows: list[Record]) -> str:
    """Names the estimators whose hard samples are visibly not drawn from softmax(logits)."""
    names = dict.fromkeys(str(row["estimator"]) for row in rows if (row["law_error"] or 0.0) > LAW_LIMIT)
    return f"Law error above {LAW_LIMIT}, their samples flatter their own loss: {', '.join(names)}." if names else ""


def _plot(objective: str, rows: list[Record]) -> Plot:
    points = [
        Point(
            row["estimator"], row["variance"], row["squared_bias"], row["variance_stderr"], row["squared_bias_stderr"]
        )
        for row in rows
        if row["objective"] == objective and row["estimator"] != "exact" and math.isfinite(row["variance"])
    ]
    return trade_off(objective, "variance of one draw", points, " Down is less bias, left is less variance.")


FLOOR = 1e-5  # of a logarithmic axis


class Point(NamedTuple):
    """Where an estimator stands between bias and variance, with standard errors."""

    name: str
    variance: float
    bias: float
    variance_error: float
    bias_error: float
    chosen: bool = False


def trade_off(title: str, x_label: str, points: Sequence[Point], note: str = "") -> Plot:
    """Squared bias against variance, one point with its standard errors each."""
    curves = []
    for point in points:
        x, y = max(point.variance, FLOOR), max(point.bias, FLOOR)
        wide, high = [min(point.variance_error, x / 2)], [min(point.bias_error, y / 2)]
        curves.append(Curve(point.name, [x], [y], high, x_error=wide, chosen=point.chosen))
    note = f"Bars: a standard error, cut where a logarithm ends. Values below {FLOOR:g} are drawn at {FLOOR:g}.{note}"
    return Plot(title, f"{x_label}, relative", "squared bias, relative", curves, note, log_x=True, log_y=True)
