"""What the reports of both studies share: rows ordered by the gap to the optimum, and its curves."""

import math
from collections.abc import Callable
from statistics import fmean

from catreparam.experiments.runs.folder import Record
from catreparam.experiments.runs.statistics import band_curves, compare
from catreparam.report import Curve

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
