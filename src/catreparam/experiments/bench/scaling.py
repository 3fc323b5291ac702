"""How the samplers' cost grows with rows, classes, steps and elements: the cases, curves, and fitted exponents."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import linear_regression

from catreparam.experiments.bench.samplers import GUMBEL, NUM_STEPS, Sampler
from catreparam.report import Column, Curve, Plot, Table

MOST_ELSEWHERE = 20_000_000  # elements: beyond, only our kernels, which hold two tensors and not ten
FITTED_DECADES = 2
LINEAR = "proportional"

COLUMNS = (Column("curve", "cost against"), Column("sampler", "sampler"), Column("exponent", "exponent", ".2f"))
NOTE = (
    f"Slope of log cost against log x over the largest {FITTED_DECADES} decades that were timed; 1 is proportional. "
    "A call's fixed cost, tens of microseconds, flattens curves that end at small calls."
)


@dataclass(frozen=True)
class Case:
    """Logits of this shape, sampled with this many steps; `x` is its place on a curve."""

    shape: tuple[int, ...]
    num_steps: int = NUM_STEPS
    x: int = 0


@dataclass(frozen=True)
class Scaling:
    """Cases along one axis, for all samplers but those named in `without`.

    `proportional`: cost should grow like x; otherwise it should not grow.
    """

    name: str
    axis: str
    cases: Sequence[Case]
    proportional: bool = True
    without: tuple[str, ...] = ()


def scalings(quick: bool) -> list[Scaling]:
    """The curves, at most a few thousand elements long if `quick`, else up to 1e8 elements and 1e5 classes."""
    elements = (1_000, 10_000, 100_000) if quick else tuple(10**power for power in range(3, 9))
    rows = (100, 1_000, 10_000) if quick else (100, 1_000, 10_000, 100_000, 1_000_000)
    classes = (2, 10, 100, 1_000) if quick else (2, 3, 10, 32, 100, 1_000, 10_000, 100_000)
    steps = (1, 4, 16) if quick else (1, 2, 4, 8, 16, 32)
    size = 20_000 if quick else 200_000
    return [
        Scaling("elements", "logits, in rows of 32 classes", [Case((n // 32, 32), x=n // 32 * 32) for n in elements]),
        Scaling("rows", "rows of 10 classes", [Case((count, 10), x=count) for count in rows]),
        Scaling("classes", "classes of 32 rows", [Case((32, count), x=count) for count in classes]),
        Scaling(
            "steps",
            "softmaxes of 3,000 rows of 10 classes",
            [Case((3_000, 10), count, x=count) for count in steps],
            without=(GUMBEL,),
        ),
        Scaling(
            "widths",
            f"classes, {size:,} logits in all",
            [Case((max(size // count, 1), count), x=count) for count in classes],
            proportional=False,
        ),
    ]


def fits(sampler: Sampler, case: Case) -> bool:
    """Whether the sampler is timed there: memory for ten tensors of 1e8 elements is not to be expected."""
    return math.prod(case.shape) <= MOST_ELSEWHERE or sampler.path in ("compiled", "triton")


def make_plot(
    scaling: Scaling, samplers: Sequence[Sampler], results: Sequence[Mapping[str, Mapping[str, float]]]
) -> Plot:
    """A curve per sampler from results[case][label], and where cost should be proportional a line of that slope."""
    curves = []
    for sampler in samplers:
        timed = [(c.x, r[sampler.label]) for c, r in zip(scaling.cases, results, strict=True) if sampler.label in r]
        if timed:
            both = [result["both"] for _, result in timed]
            spread = [min(result["both_spread"], 0.9 * result["both"]) for _, result in timed]
            curves.append(Curve(sampler.label, [x for x, _ in timed], both, spread))
    if scaling.proportional and curves:
        lowest = min(curves, key=lambda curve: curve.y[-1] / curve.x[-1])
        first, last = scaling.cases[0].x, lowest.x[-1]
        curves.append(Curve(LINEAR, [first, last], [lowest.y[-1] * first / last, lowest.y[-1]]))
    note = "Medians; bands are half the distance between the quartiles to either side."
    return Plot(f"Cost against {scaling.axis}", scaling.axis, "forward + backward, ms", curves, note, True, True)


def exponent_table(scaling_plots: Sequence[tuple[Scaling, Plot]]) -> Table:
    """The fitted exponent of every curve whose cost should be proportional."""
    rows = [
        {"curve": scaling.axis, "sampler": curve.label, "exponent": exponent}
        for scaling, plot in scaling_plots
        if scaling.proportional
        for curve in plot.curves
        if curve.label != LINEAR and (exponent := fitted_exponent(curve.x, curve.y)) is not None
    ]
    return Table(COLUMNS, rows, NOTE)


def fitted_exponent(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The least-squares slope of log y against log x over the largest FITTED_DECADES of x; None for under two points.

    >>> round(fitted_exponent([1, 10, 100, 1000], [5.0, 5.0, 50.0, 500.0]), 2)
    1.0
    """
    smallest = 0.999 * max(x, default=0) / 10**FITTED_DECADES
    points = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True) if a >= smallest]
    if len(points) < 2:
        return None
    return linear_regression(*zip(*points, strict=True)).slope
