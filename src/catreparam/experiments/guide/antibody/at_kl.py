"""Points of the comparison, and what a method reaches at a KL between two of its strengths, with an honest interval."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from catreparam.experiments.guide.equal_kl import equal_kls
from catreparam.experiments.guide.methods import is_gradient_method
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.runs.statistics import stratified_mean_and_interval


@dataclass(frozen=True)
class Point:
    """A method at one strength: for every quantity its values by antibody, over seeds and designs."""

    method: str
    strength: float
    values: dict[str, list[list[float]]] = field(default_factory=dict)

    def mean(self, key: str) -> tuple[float, float | None] | None:
        """Mean over the antibodies and its half-width; None where nothing is known."""
        groups = [group for group in self.values.get(key, ()) if group]
        return stratified_mean_and_interval(groups) if groups else None

    @property
    def kl(self) -> float | None:
        """Its mean KL; None for methods without one."""
        found = self.mean("kl")
        return None if found is None else found[0]


def value_at_kl(points: Sequence[Point], key: str, kl: float) -> tuple[float, float | None] | None:
    """A method's mean of a quantity at a KL and its half-width; None where the KL is outside of its strengths.

    Linear between neighbouring strengths. That their KL is measured too counts: to first order the error is that of
    value - slope * KL, design by design.
    """
    known = sorted((point.kl, point) for point in points if point.kl is not None)
    for (left, low), (right, high) in pairwise(known):
        if left <= kl <= right and right > left:
            values = [(low.mean(key) or (0.0,))[0], (high.mean(key) or (0.0,))[0]]
            slope, part = (values[1] - values[0]) / (right - left), (kl - left) / (right - left)
            halves = [_half(low, key, slope), _half(high, key, slope)]
            value = (1 - part) * values[0] + part * values[1]
            if halves[0] is None or halves[1] is None:
                return value, None
            return value, (((1 - part) * halves[0]) ** 2 + (part * halves[1]) ** 2) ** 0.5
    return None


def rows_at_equal_kl(points: Sequence[Point], keys: Sequence[str]) -> list[Record]:
    """Every method that optimises logits, at KLs that all of them reach, best by the first key first.

    `behind`: how much less of the first key than the best one, with its half-width.
    """
    methods = dict.fromkeys(point.method for point in points if is_gradient_method(point.method))
    rows: list[Record] = []
    for kl in equal_kls(points):
        at_kl = []
        for method in methods:
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
    """The half-width of the mean of value - slope * KL."""
    pairs = zip(point.values[key], point.values["kl"], strict=True)
    groups = [[v - slope * k for v, k in zip(values, kls, strict=True)] for values, kls in pairs]
    return stratified_mean_and_interval(groups)[1]
