"""Means over seeds with 95 % intervals by Student's t, bands of curves, and intervals of proportions."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from catreparam.report import Curve

# The 97.5 % quantile of Student's t by degrees of freedom; beyond the table, the last line is within 0.5 %.
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard error of the mean; no error from a single value.

    >>> mean_and_error([1.0, 3.0])
    (2.0, 1.0)
    """
    return fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of its 95 % interval by Student's t; no interval from one value or two.

    Two values would give twelve standard errors, by which nothing can be told.

    >>> mean, half = mean_and_interval([1.0, 2.0, 3.0])
    >>> mean, round(half, 3)
    (2.0, 2.484)
    """
    mean, error = mean_and_error(values)
    return mean, None if error is None or len(values) < 3 else t_quantile(len(values) - 1) * error


def stratified_mean_and_interval(groups: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    """Mean of the groups' means, and half its 95 % interval over the draws within these very groups.

    What the groups (sequences, problems) differ by is no noise: they stay the same. None where a group has one value.

    >>> stratified_mean_and_interval([[1.0, 1.0], [5.0, 5.0]])
    (3.0, 0.0)
    """
    means = [fmean(values) for values in groups]
    if min(map(len, groups)) < 2:
        return fmean(means), None
    variance = sum(stdev(values) ** 2 / len(values) for values in groups) / len(groups) ** 2
    return fmean(means), t_quantile(sum(map(len, groups)) - len(groups)) * math.sqrt(variance)


def compare(runs: Mapping[str, Mapping[int, float]], *, reference: str = "") -> dict[str, dict[str, float | None]]:
    """For every method and its value by seed (lower is better): `mean`, its 95 % interval `half`, and against
    `reference` (the method with the lowest mean, if none is named) the `difference` and its interval `difference_half`,
    paired by the seeds that both have.

    Pairing removes what the seed does to both: the initial weights, the batches, the problem. The reference itself has
    difference 0 and no interval. Intervals are Student's t and not corrected for the number of comparisons.

    >>> compare({"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 3.0}})["b"]["difference"]
    1.0
    """
    means = {name: fmean(values.values()) for name, values in runs.items() if values}
    best = reference or min(means, key=lambda name: means[name], default="")
    compared: dict[str, dict[str, float | None]] = {}
    for name in means:
        mean, half = mean_and_interval(list(runs[name].values()))
        compared[name] = {"mean": mean, "half": half, "difference": None, "difference_half": None}
        rival = runs.get(best, {})
        differences = [value - rival[seed] for seed, value in runs[name].items() if seed in rival]
        if name == best:
            compared[name]["difference"] = 0.0
        elif differences:
            compared[name]["difference"], compared[name]["difference_half"] = mean_and_interval(differences)
    return compared


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t."""
    if degrees <= len(T_QUANTILES):
        return T_QUANTILES[degrees - 1]
    return 1.95996 + 2.3722 / degrees + 2.8225 / degrees**2  # Cornish-Fisher, right to 1e-4 from 30 on


def band(runs: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Mean and half-width of the 95 % interval of curves, point by point, as far as all go; no band from one or two."""
    points = [mean_and_interval(values) for values in zip(*runs, strict=False)]
    halves = [half for _, half in points if half is not None]
    return [mean for mean, _ in points], halves


def band_curves(runs: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]) -> list[Curve]:
    """The `band` of every method that has runs, each as its x and y; all have the x of the first."""
    curves = []
    for name, pairs in runs.items():
        if pairs:
            mean, half = band([y for _, y in pairs])
            curves.append(Curve(name, pairs[0][0][: len(mean)], mean, half))
    return curves


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a rate.

    >>> [round(bound, 3) for bound in wilson_interval(5, 10)]
    [0.237, 0.763]
    """
    z, rate = 1.959964, successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def agresti_coull_half(share: float, n: int) -> float:
    """Half the width of Agresti and Coull's 95 % interval of a proportion.

    >>> round(agresti_coull_half(0.5, 100), 3), round(agresti_coull_half(1.0, 100), 3)
    (0.096, 0.026)
    """
    z = 1.96
    centre = (share * n + z * z / 2) / (n + z * z)
    return z * (centre * (1 - centre) / (n + z * z)) ** 0.5
