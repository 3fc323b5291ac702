"""Bias study: how far the law of the hard sample is from softmax(logits), by number of steps and t1.

The law of ReDGE's hard sample is the mean of its relaxed one, so that averaging relaxed samples measures it with far
less noise than counting; other methods are counted. Distances are cross-fitted: signs from one half of the draws, sizes
from the other, so that sampling noise does not add to them and an exact law has mean 0.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import TypeAdapter
from torch import Generator, Tensor
from typing_extensions import TypedDict

from catreparam.categorical import draw_normal_like
from catreparam.estimators import Estimator, make_estimator
from catreparam.estimators.facts import facts_of
from catreparam.estimators.reindge import reindge_surrogate
from catreparam.experiments.runs.cells import run_cells
from catreparam.experiments.runs.configs import check_distinct, check_seeds, command_of, config_of_folder
from catreparam.experiments.runs.estimator_specs import normalise_specs, parse_spec
from catreparam.experiments.runs.folder import Record, RunFolder, finish
from catreparam.experiments.runs.records import Count, Number, line
from catreparam.experiments.runs.statistics import mean_and_error
from catreparam.experiments.runs.streams import stream
from catreparam.noise_schedule import make_schedule
from catreparam.report import Column, Curve, Plot, Report, Table
from catreparam.validation import check_count, check_number

CHUNK_VALUES = 2**21  # logits at a time
NUM_CHUNKS = 20  # of every cell, for the halves and the standard errors
FLOOR = 1e-7  # of logarithmic plots
DISTANCES = {"total_variation": "Total variation", "wasserstein": "Wasserstein distance"}
UNITS = {"total_variation": "total variation", "wasserstein": "Wasserstein distance (classes)"}
NOTE = (
    "Columns are numbers of steps (denoiser evaluations). Distance between the law of the hard sample and "
    "softmax(logits): total variation, and the Wasserstein distance between class indices (cost |i - j|). Means over "
    "{seeds} draw(s) of the logits; values below twice the last column's error are not told apart from 0, and may be "
    "negative because the estimate is unbiased at 0. ± largest: the largest standard error of a row, of the "
    "sampling and over logits."
)


@dataclass(frozen=True)
class Config:
    """What to measure."""

    estimators: tuple[str, ...] = ("redge", "redge_cov", "reindge", "exact_redge")
    """Names that take num_steps and t1, with other hyperparameters if wanted: redge:solver=heun,grid=lambda."""
    num_steps: tuple[int, ...] = tuple(range(1, 12))
    """Steps of the diffusion, a column each."""
    t1: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Smallest noise levels, a table each."""
    num_classes: int = 100
    """Classes of a row."""
    logit_scale: float = 1.0
    """Logits are normal with this standard deviation."""
    num_draws: int = 100_000
    """Per cell; a multiple of 20."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One draw of the logits each."""
    jobs: int = 1
    """Cells side by side, each on one thread."""
    folder: Path | None = None
    """Run folder; default runs/law. The same command resumes there."""

    def checked(self) -> "Config":
        """This config with estimators in one spelling. Raises ValueError or TypeError naming the bad value."""
        check_count("jobs", self.jobs)
        check_count("num_classes", self.num_classes, 2)
        check_number("logit_scale", self.logit_scale, least=0.0)
        check_count("num_draws", self.num_draws, 2 * NUM_CHUNKS)
        if self.num_draws % NUM_CHUNKS:
            raise ValueError(f"num_draws must be a multiple of {NUM_CHUNKS}, got {self.num_draws}")
        for name in ("num_steps", "t1"):
            check_distinct(name, getattr(self, name))
        check_seeds("seeds", self.seeds)
        estimators = normalise_specs(self.estimators)
        for spec, steps, t1 in itertools.product(estimators, self.num_steps, self.t1):
            _build(spec, steps, t1)
        return dataclasses.replace(self, estimators=estimators)


@line
class Law(TypedDict):
    """Distances of one law, with their standard errors."""

    seed: int
    estimator: str
    t1: Number
    num_steps: Count
    total_variation: Number
    total_variation_error: Number
    wasserstein: Number
    wasserstein_error: Number


LINES = TypeAdapter(Law)

PRESETS = {
    "paper": Config(),
    "quick": Config(num_steps=(1, 2, 3, 5, 8, 11), num_draws=10_000, seeds=(0,), folder=Path("runs/law-quick")),
}


def run(config: Config) -> Report:
    """Measures what is not measured yet, writes the report into the run folder and returns it."""
    config = config.checked()
    cells = itertools.product(config.seeds, config.estimators, config.t1, config.num_steps)
    keys: list[Record] = [dict(zip(("seed", "estimator", "t1", "num_steps"), cell, strict=True)) for cell in cells]
    with run_cells("law", config, keys, measure_law, config.folder or Path("runs/law"), LINES) as folder:
        return _write_report(config, folder)


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew and returns it. Runs nothing."""
    config, folder = config_of_folder(Config, path, LINES)
    return _write_report(config, folder)


def measure_law(config: Config, seed: int, estimator: str, t1: float, num_steps: int) -> Record:
    """Both distances with standard errors for one draw of the logits."""
    drawn = torch.randn(config.num_classes, generator=stream(seed, "logits"), dtype=torch.float64)
    logits, made = config.logit_scale * drawn, _build(estimator, num_steps, t1)
    generator = stream(seed, f"law {estimator} {t1} {num_steps}")  # cells are independent of each other
    errors = torch.stack(
        [law - torch.softmax(logits, -1) for law in _laws_of_chunks(made, logits, config.num_draws, generator)]
    )  # [NUM_CHUNKS, K]
    record: Record = {}
    for name, lengths in (("total_variation", errors / 2), ("wasserstein", errors.cumsum(-1))):
        record[name], record[f"{name}_error"] = crossfitted_length(lengths)
    return record


def crossfitted_length(chunks: Float[Tensor, "num_chunks num_terms"]) -> tuple[float, float]:
    """Estimates sum_k |E chunks[., k]| from independent chunks, and the standard error of that.

    Every chunk is summed with the signs that the other half of the chunks shows. If the mean is 0 the estimate has mean
    0; where it is clearly not 0 the signs are right and the estimate is unbiased; between, it is too small, never too
    large.
    """
    first, second = chunks[0::2], chunks[1::2]
    values = torch.cat([first @ second.mean(0).sign(), second @ first.mean(0).sign()])
    return float(values.mean()), float(values.std()) / len(values) ** 0.5


def _laws_of_chunks(estimator: Estimator, logits: Tensor, num_draws: int, generator: Generator) -> Iterator[Tensor]:
    """The law as NUM_CHUNKS independent parts of the draws show it, each [K] in float64."""
    draw = _drawer(estimator)
    rows = logits.float()
    for _ in range(NUM_CHUNKS):
        left, total = num_draws // NUM_CHUNKS, torch.zeros_like(logits)
        size = max(1, CHUNK_VALUES // len(logits))
        for count in [size] * (left // size) + [left % size] * bool(left % size):
            total += draw(rows.expand(count, -1), generator).sum(0, dtype=torch.float64)
        yield total / left


@torch.no_grad()
def _relaxed_reindge(estimator: Estimator, rows: Tensor, generator: Generator) -> Tensor:
    """The relaxed sample that ReinDGE draws its hard one from: the value of its surrogate."""
    values = dict(estimator.keywords)
    solver = values.pop("solver", "euler")
    schedule = make_schedule(values.pop("grid", "alpha"), values["num_steps"], values["t1"])
    noise = draw_normal_like(rows, generator)
    return reindge_surrogate(rows, noise=noise, x=torch.zeros_like(rows), schedule=schedule, solver=solver)


def _drawer(estimator: Estimator) -> Callable[[Tensor, Generator], Tensor]:
    """Rows -> samples whose mean is the law: relaxed ones where the hard sample is drawn from them, else hard ones."""
    facts = facts_of(estimator)
    if facts.relaxes and facts.law != "exact":
        return lambda rows, generator: estimator(rows, hard=False, generator=generator)
    if estimator.name == "reindge":
        return lambda rows, generator: _relaxed_reindge(estimator, rows, generator)
    return lambda rows, generator: estimator(rows, generator=generator)


def _build(spec: str, num_steps: int, t1: float) -> Estimator:
    name, hyperparameters = parse_spec(spec)
    names = facts_of(name).hyperparameters
    for wanted in ("num_steps", "t1"):
        if wanted not in names or wanted in hyperparameters:
            problem = "is set by the study" if wanted in hyperparameters else f"is not a hyperparameter of {name}"
            raise ValueError(f"estimator {spec!r}: {wanted} {problem}; leave it out, or choose redge, exact_redge, …")
    return make_estimator(name, **hyperparameters, num_steps=num_steps, t1=t1)


def _write_report(config: Config, folder: RunFolder) -> Report:
    records = folder.read_metrics()
    rows = [
        _row(config, distance, spec, t1, records)
        for distance, spec, t1 in itertools.product(DISTANCES, config.estimators, config.t1)
    ]
    columns = [Column("estimator", "estimator"), Column("t1", "t1")]
    columns += [Column(f"steps_{n}", str(n), ".4f") for n in config.num_steps]
    columns.append(Column("largest_error", "± largest", ".4f"))
    report = Report(
        title="The law of the hard sample",
        summary=f"{config.num_classes} classes, normal logits with standard deviation {config.logit_scale:g}, "
        f"{config.num_draws} draws a cell.",
        table=Table(columns, rows, NOTE.format(seeds=len(config.seeds)), group="distance"),
        plots=[_curves(config, distance, t1, records) for distance in DISTANCES for t1 in config.t1],
        facts={"machine": folder.machine, "seeds": ", ".join(map(str, config.seeds))},
        command=command_of("catreparam run law", config),
    )
    return finish(folder, report)


def _row(config: Config, distance: str, spec: str, t1: float, records: list[Record]) -> Record:
    row: Record = {"distance": DISTANCES[distance], "estimator": spec, "t1": t1}
    points = _points(config, distance, spec, t1, records)
    row |= {f"steps_{n}": points[n][0] if n in points else None for n in config.num_steps}
    return row | {"largest_error": max((error for _, error in points.values()), default=None)}


def _points(
    config: Config, distance: str, spec: str, t1: float, records: list[Record]
) -> dict[int, tuple[float, float]]:
    """For every measured number of steps: mean, and the larger of its two errors, of the sampling and over logits."""
    points = {}
    for n in config.num_steps:
        found = [r for r in records if (r["estimator"], r["t1"], r["num_steps"]) == (spec, t1, n)]
        if found:
            mean, over_logits = mean_and_error([r[distance] for r in found])
            sampling = sum(r[f"{distance}_error"] ** 2 for r in found) ** 0.5 / len(found)
            points[n] = mean, max(sampling, over_logits or 0.0)
    return points


def _curves(config: Config, distance: str, t1: float, records: list[Record]) -> Plot:
    curves = []
    for spec in config.estimators:
        points = _points(config, distance, spec, t1, records)
        curves.append(Curve(spec, list(points), [max(mean, error, FLOOR) for mean, error in points.values()]))
    note = "Values below their standard error are drawn at it: so low, a curve shows the noise of the measurement."
    return Plot(f"{DISTANCES[distance]}, t1 = {t1:g}", "number of steps", UNITS[distance], curves, note, log_y=True)
