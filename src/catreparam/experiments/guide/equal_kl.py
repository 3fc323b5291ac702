"""Methods compared at equal KL: what each reaches there between two of its strengths, with an honest interval."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import hypot
from statistics import fmean

from catreparam.experiments.guide.methods import is_gradient_method
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.runs.statistics import agresti_coull_half, stratified_mean_and_interval

SHARES = ("accuracy",)  # quantities that are 0 or 1: never quite sure, also where all agree
NOTE = "Linear between neighbouring weights; ± is half a 95 % interval, and knows that the KL is measured too."


@dataclass(frozen=True)
class Point:
    """A method at one strength: for every quantity its values by group, over seeds and draws.

    A group is what stays the same in another study: the antibody that is designed, the class that is wanted.
    """

    method: str
    strength: float
    values: dict[str, list[list[float]]] = field(default_factory=dict)

    def mean(self, key: str) -> tuple[float, float | None] | None:
        """Mean over the groups and its half-width; None where nothing is known."""
        groups = [group for group in self.values.get(key, ()) if group]
        return stratified_mean_and_interval(groups) if groups else None

    @property
    def kl(self) -> float | None:
        """Its mean KL; None for methods without one."""
        found = self.mean("kl")
        return None if found is None else found[0]


def equal_kls(points: Sequence[Point], count: int = 3) -> list[float]:
    """KLs that every method that optimises logits reaches: evenly spaced inside the common range."""
    by_method: dict[str, list[float]] = {}
    for point in points:
        if is_gradient_method(point.method) and point.kl is not None:
            by_method.setdefault(point.method, []).append(point.kl)
    kls = [values for values in by_method.values() if len(values) > 1]
    low, high = max(map(min, kls), default=0.0), min(map(max, kls), default=0.0)
    return [low + (high - low) * (i + 0.5) / count for i in range(count)] if high > low else []


def value_at_kl(points: Sequence[Point], key: str, kl: float) -> tuple[float, float | None] | None:
    """A method's mean of a quantity at a KL and its half-width; None where the KL is outside of its strengths.

    Linear between neighbouring strengths. That their KL is measured too counts: to first order the error is that of
    value - slope * KL, draw by draw. The half-width is None where a group has one draw.
    """
    known = [(point.kl, found[0], point) for point in points if point.kl is not None and (found := point.mean(key))]
    known.sort(key=lambda triple: triple[0])
    for (left, low, first), (right, high, second) in pairwise(known):
        if left <= kl <= right and right > left:
            slope, part = (high - low) / (right - left), (kl - left) / (right - left)
            halves = _half(first, key, slope), _half(second, key, slope)
            value = (1 - part) * low + part * high
            if halves[0] is None or halves[1] is None:
                return value, None
            return value, (((1 - part) * halves[0]) ** 2 + (part * halves[1]) ** 2) ** 0.5
    return None


def rows_at_equal_kl(points: Sequence[Point], keys: Sequence[str]) -> list[Record]:
    """Every method, at KLs that all that optimise logits reach, best by the first key first.

    `behind`: how much less of the first key than the best one, with its half-width.
    """
    rows: list[Record] = []
    for kl in equal_kls(points):
        at_kl = []
        for method in dict.fromkeys(point.method for point in points):
            row: Record = {"method": method, "kl": kl}
            for key in keys:
                found = value_at_kl([point for point in points if point.method == method], key, kl)
                if found is not None:
                    row[key], row[f"{key}_half"] = found
            at_kl += [row] if keys[0] in row else []
        rows += _ranked(at_kl, keys[0])
    return rows


def _ranked(rows: list[Record], key: str) -> list[Record]:
    rows = sorted(rows, key=lambda row: -row[key])
    for row in rows[1:]:
        halves = (rows[0][f"{key}_half"], row[f"{key}_half"])
        row["behind"] = rows[0][key] - row[key]
        row["behind_half"] = None if None in halves else (halves[0] ** 2 + halves[1] ** 2) ** 0.5
    return rows


def _half(point: Point, key: str, slope: float) -> float | None:
    """The half-width of the mean of value - slope * KL.

    A group whose values all agree adds the error of its KL alone, which is fair as long as others have spread. Where
    no group has any, a share has Agresti and Coull's interval too.
    """
    pairs = zip(point.values[key], point.values["kl"], strict=True)
    groups = [[v - slope * k for v, k in zip(values, kls, strict=True)] for values, kls in pairs]
    half = stratified_mean_and_interval(groups)[1]
    if half is None or key not in SHARES or any(len({*values}) > 1 for values in point.values[key]):
        return half
    known = [value for values in point.values[key] for value in values]
    return hypot(half, agresti_coull_half(fmean(known), len(known)))
