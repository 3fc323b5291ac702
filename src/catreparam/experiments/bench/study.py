"""Time the samplers: every path of ours and every installed peer, interleaved in one run, forward and forward +
backward.

Seven shapes, then cost against rows, classes and steps. A path whose gradient differs from the naive twin's is not
timed.
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from catreparam.experiments.bench.samplers import (
    GUMBEL,
    NUM_STEPS,
    PEER,
    TOLERANCE,
    Sampler,
    find_samplers,
    parity_error,
    peak_tensors,
)
from catreparam.experiments.bench.scaling import Case, Scaling, exponent_table, fits, make_plot, scalings
from catreparam.experiments.bench.steps import measure_steps
from catreparam.experiments.bench.turns import in_turn, median_and_spread
from catreparam.experiments.runs.configs import check_room, options
from catreparam.experiments.runs.folder import Record, write_into
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.progress import Progress, show_progress
from catreparam.kernels.compiled import node
from catreparam.report import Column, Plot, Report, Table, write_atomically
from catreparam.report.figures import plot_to_svg
from catreparam.validation import check_choice, check_count

SHAPES = ("200x48x2", "100x30x10", "256x128x2", "64x100", "1x576x16384", "1024x32x32", "64x81x9")
LARGE = 2_000_000  # elements: a sixth of the rounds above
WARM_UP = 2
BLOCK = 1e-3  # seconds: a sampler's turn lasts at least as long, so that small shapes are timed as in a loop

COLUMNS = (
    Column("sampler", "sampler"),
    Column("forward", "forward, ms", ".3f", "forward_spread"),
    Column("both", "forward + backward, ms", ".3f", "both_spread"),
    Column("against_peer", "× redge package", ".1f"),
    Column("against_gumbel", "× gumbel_softmax", ".1f"),
    Column("peak", "peak memory, tensors", ".1f"),
)
NOTE = (
    f"Medians; ± is half the distance between the quartiles. {NUM_STEPS} evaluations (n_steps = {NUM_STEPS + 1} of the "
    "redge package), t1 = .5. ×: how many times faster, forward + backward, than the redge package and than "
    "torch.nn.functional.gumbel_softmax(hard=True) in this run (– : not installed). Peak memory: the most that torch "
    "held beyond logits and upstream gradient, in tensors of the logits' size (sample and gradient alone are 2)."
)


@dataclass(frozen=True)
class Config:
    """What to time."""

    shapes: tuple[str, ...] = SHAPES
    """Shapes of logits as 100x30x10, classes last."""
    rounds: int = 40
    """Timings of every sampler and shape; a sixth of it for large shapes and for the curves."""
    samplers: tuple[str, ...] = ()
    """Only these, as the table names them ("redge (compiled)") or without the path ("redge"); all if none is given."""
    curves: bool = True
    """Cost against logits (1e3 to 1e8), rows, classes (2 to 100,000) and steps (1 to 32), with fitted exponents."""
    steps: bool = False
    """Whole steps instead: of guidance, beside loops with other samplers, and of training a VAE."""
    quick: bool = False
    """Under a minute: small shapes, few rounds, short curves."""
    folder: Path | None = None
    """Where to write bench.json, table.md, fitted-exponents.md, cost-*.svg and report.html; nothing is written if not \
given."""


def run(config: Config) -> Report:
    """Times everything. Raises ValueError or TypeError for a bad config."""
    check_count("rounds", config.rounds, minimum=2)
    shapes, rounds = {name: parse_shape(name) for name in config.shapes}, config.rounds
    if config.quick:
        shapes = {name: shape for name, shape in shapes.items() if math.prod(shape) < LARGE / 4}
        rounds = min(rounds, 7)
    if config.steps:
        return _run_steps(config)
    found, missing = find_samplers()
    samplers = _wanted(found, config.samplers)
    wrong = {sampler.label: error for sampler in samplers if not (error := parity_error(sampler)) < TOLERANCE}
    samplers = [sampler for sampler in samplers if sampler.label not in wrong]
    chosen = [s for s in samplers if s.name in (GUMBEL, PEER, "redge", "exact_redge")]
    with show_progress() as progress:
        rows = _rows(shapes, samplers, rounds, progress)
        curves = scalings(config.quick) if config.curves else []
        plots = [(scaling, _plot(scaling, chosen, max(rounds // 6, 3), progress)) for scaling in curves]
    report = Report(
        title="Speed of the samplers",
        summary=f"{len(samplers)} samplers in turn, {rounds} rounds.",
        table=Table(COLUMNS, rows, f"{NOTE} Not timed here: {', '.join(missing)}." if missing else NOTE, group="shape"),
        plots=[plot for _, plot in plots],
        appendix={"Fitted exponents": exponent_table(plots)} if plots else {},
        facts=_facts(missing),
        command="catreparam bench " + options(asdict(config), asdict(Config())),
        warning=f"NOT TIMED, gradients differ from the naive twin's: {wrong}" if wrong else "",
    )
    report = write_into(config.folder, report)
    if config.folder:
        _write_numbers(config.folder, report, rows, wrong, plots)
    return report


def _run_steps(config: Config) -> Report:
    with show_progress() as progress:
        table = measure_steps(config.quick, min(config.rounds, 7) if config.quick else config.rounds, progress)
    report = Report(
        title="Speed of whole steps",
        summary="Steps of guidance and of training, in turn.",
        table=table,
        facts=_facts(find_samplers()[1]),
        command="catreparam bench " + options(asdict(config), asdict(Config())),
    )
    return write_into(config.folder, report)


def _facts(missing: Sequence[str]) -> dict[str, str]:
    return {
        "machine": describe_machine(),
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
        "autograd node": node.UNAVAILABLE or "built",
        "missing": ", ".join(missing) or "nothing",
    }


def _rows(
    shapes: Mapping[str, tuple[int, ...]], samplers: Sequence[Sampler], rounds: int, progress: Progress
) -> list[Record]:
    rows: list[Record] = []
    progress.start("shapes", total=max(len(shapes), 1))
    for name, shape in shapes.items():
        results = measure(Case(shape), samplers, rounds)
        for sampler in samplers:
            results[sampler.label]["peak"] = peak_tensors(sampler, shape, NUM_STEPS)
        rows += _compare(name, results, samplers)
        progress.advance("shapes", name)
    return rows


def _write_numbers(
    folder: Path, report: Report, rows: list[Record], wrong: dict[str, float], plots: list[tuple[Scaling, Plot]]
) -> None:
    """bench.json, and every curve as a picture."""
    content = {"facts": dict(report.facts), "red": wrong, "rows": rows, "plots": [asdict(plot) for _, plot in plots]}
    content["exponents"] = list(report.appendix["Fitted exponents"].rows) if plots else []
    for scaling, plot in plots:
        svg = plot_to_svg(plot, [curve.label for curve in plot.curves])
        write_atomically(folder / f"cost-{scaling.name}.svg", svg + "\n")
    write_atomically(folder / "bench.json", json.dumps(content, indent=1) + "\n")


def _wanted(samplers: list[Sampler], names: Sequence[str]) -> list[Sampler]:
    known = sorted({sampler.name for sampler in samplers} | {sampler.label for sampler in samplers})
    for name in names:
        check_choice("sampler", name, known)
    return [sampler for sampler in samplers if not names or sampler.name in names or sampler.label in names]


def parse_shape(text: str) -> tuple[int, ...]:
    """100x30x10 as a tuple. Raises ValueError unless it is positive numbers, and not too many."""
    words = text.split("x")
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise ValueError(f"a shape is positive numbers like 100x30x10, got {text!r}")
    check_room(f"logits of shape {text}", math.prod(map(int, words)))
    return tuple(map(int, words))


def measure(case: Case, samplers: Sequence[Sampler], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds for every sampler: medians of forward and both, and half their interquartile ranges."""
    rounds = max(rounds // 6, 3) if math.prod(case.shape) >= LARGE else rounds
    given = {
        device: (torch.randn(case.shape, device=device).requires_grad_(), torch.randn(case.shape, device=device))
        for device in {sampler.device for sampler in samplers}
    }
    times: dict[str, tuple[list[float], list[float]]] = {sampler.label: ([], []) for sampler in samplers}
    for sampler, counted in in_turn(samplers, rounds, warm_up=WARM_UP):
        with sampler.on_its_path():
            forward, both = _time_block(sampler, *given[sampler.device], case.num_steps)
        if counted:
            times[sampler.label][0].append(forward)
            times[sampler.label][1].append(both)
    results = {}
    for label, (forward, both) in times.items():
        (forward, forward_spread), (both, both_spread) = median_and_spread(forward), median_and_spread(both)
        results[label] = {
            "forward": forward,
            "forward_spread": forward_spread,
            "both": both,
            "both_spread": both_spread,
        }
    return results


def _time_block(sampler: Sampler, logits: Tensor, upstream: Tensor, num_steps: int) -> tuple[float, float]:
    """Mean milliseconds of forward, and of forward + backward, over calls that fill BLOCK, after one not timed."""
    sampler.draw(logits, num_steps).backward(upstream)  # what the neighbour pushed out of the caches comes back
    forward = both = 0.0
    calls = 0
    while both < BLOCK:
        logits.grad = None
        started = _now(logits)
        x = sampler.draw(logits, num_steps)
        drawn = _now(logits)
        x.backward(upstream)
        done = _now(logits)
        forward += drawn - started
        both += done - started
        calls += 1
    logits.grad = None
    return 1e3 * forward / calls, 1e3 * both / calls


def _now(logits: Tensor) -> float:
    if logits.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _compare(name: str, results: dict[str, dict[str, float]], samplers: Sequence[Sampler]) -> list[Record]:
    """A row for every sampler, the fastest first, with its peers on the same device."""
    devices = {sampler.label: sampler.device for sampler in samplers}
    peers = {(s.name, s.device): results[s.label]["both"] for s in samplers if s.name in (PEER, GUMBEL)}
    rows = []
    for label, result in sorted(results.items(), key=lambda item: item[1]["both"]):
        keys = {"against_peer": (PEER, devices[label]), "against_gumbel": (GUMBEL, devices[label])}
        faster = {key: peers[peer] / result["both"] for key, peer in keys.items() if peer in peers}
        rows.append({"shape": name, "sampler": label, **result, **faster})
    return rows


def _plot(scaling: Scaling, samplers: Sequence[Sampler], rounds: int, progress: Progress) -> Plot:
    results = []
    progress.start(scaling.axis, total=len(scaling.cases))
    for case in scaling.cases:
        chosen = [sampler for sampler in samplers if sampler.name not in scaling.without and fits(sampler, case)]
        results.append(measure(case, chosen, rounds))
        progress.advance(scaling.axis, str(case.x))
    return make_plot(scaling, samplers, results)
