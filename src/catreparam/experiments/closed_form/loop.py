"""What polynomial programming and the mixture share: one loop of Adam, rows and curves of their reports."""

import math
import time
from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor
from typing_extensions import TypedDict

from catreparam.estimators import expectation
from catreparam.experiments.runs.estimator_specs import build_estimator, samples_of
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.runs.records import Count, Number, Seconds, line
from catreparam.experiments.runs.statistics import band_curves, compare
from catreparam.report import Curve


@line
class Descent(TypedDict):
    """What `descend` returns."""

    steps: Annotated[list[Count], Len(1)]
    gaps: Annotated[list[Number], Len(1)]
    milliseconds: Seconds
    own_loss: Number


def level(record: Descent) -> Descent:
    """The record. Raises ValueError if it has not a gap for every step."""
    if len(record["steps"]) != len(record["gaps"]):
        raise ValueError(f"{len(record['steps'])} steps and {len(record['gaps'])} gaps")
    return record


Say = Callable[[int, float], None]  # step and gap

POINTS = 100  # of a curve


def say_nothing(step: int, gap: float) -> None:
    """For runs that nobody follows."""


def descend(
    logits: Tensor,
    loss_of: Callable[[Callable[..., Tensor], Tensor], Tensor],
    gap_of: Callable[[Tensor], float],
    *,
    estimator: str,
    num_samples: int,
    num_steps: int,
    lr: float,
    seed: int,
    say: Say,
    to_one_percent: bool = False,
) -> Record:
    """Lowers the sum of `loss_of(estimate, logits)`, with estimate(objective, logits) the estimator's `expectation`.

    Changes the logits in place. Returns true losses above the optimum (`gaps`) at about POINTS `steps`, which are also
    said; the mean loss as the estimator's own samples had it over the last tenth of the steps (`own_loss`); the time of
    a step (`milliseconds`); and, if asked for, the first step at which the gap is within 1 % of the start's
    (`steps_to_one_percent`, None if there is none).
    """
    method, generator = build_estimator(estimator), torch.Generator().manual_seed(seed)
    count = samples_of(method, num_samples)
    estimate = partial(expectation, estimator=method, num_samples=count, generator=generator)
    optimizer, every = torch.optim.Adam([logits.requires_grad_()], lr=lr), max(1, num_steps // POINTS)
    steps, gaps = [0], [gap_of(logits.detach())]
    own_losses: list[float] = []
    reached, seconds = None, 0.0
    for step in range(1, num_steps + 1):
        began = time.perf_counter()
        optimizer.zero_grad()
        loss = loss_of(estimate, logits)
        loss.sum().backward()
        optimizer.step()
        seconds += time.perf_counter() - began
        own_losses.append(float(loss.detach().mean()))
        is_point = step % every == 0 or step == num_steps
        if is_point or to_one_percent:
            gap = gap_of(logits.detach())
            if reached is None and gap <= 0.01 * gaps[0]:
                reached = step
            if is_point:
                steps.append(step)
                gaps.append(gap)
                say(step, gap)
    record: Record = {"steps": steps, "gaps": gaps, "milliseconds": 1000 * seconds / num_steps}
    record["own_loss"] = fmean(own_losses[-max(1, num_steps // 10) :])
    return record | ({"steps_to_one_percent": reached} if to_one_percent else {})


Groups = dict[str, list[Record]]  # the runs of each estimator


def rows_by_gap(groups: Groups, more: Callable[[list[Record], float], Record]) -> list[Record]:
    """One row per estimator, smallest gap first, with what `more(runs, gap)` adds."""
    compared = compare({spec: {r["seed"]: r["gaps"][-1] for r in runs} for spec, runs in groups.items()})
    rows = []
    for spec, values in compared.items():
        runs, gap = groups[spec], values["mean"] or 0.0
        row: Record = {"estimator": spec, "seeds": len(runs), "gap": gap, "gap_ci": values["half"]}
        row |= {"difference": values["difference"], "difference_ci": values["difference_half"]}
        row |= {key: fmean(r[key] for r in runs) for key in ("own_loss", "milliseconds")}
        rows.append(row | more(runs, gap))
    return sorted(rows, key=lambda row: row["gap"])


def gap_curves(groups: Groups, *, floor: float = -math.inf) -> list[Curve]:
    """The mean gap of each estimator by step, drawn at `floor` where it is below."""
    return band_curves(
        {spec: [(r["steps"], [max(gap, floor) for gap in r["gaps"]]) for r in runs] for spec, runs in groups.items()}
    )
