"""Methods compared at equal KL: at which KLs, and what a method reaches there between two of its strengths."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol

from catreparam.experiments.guide.methods import is_gradient_method


class AtKL(Protocol):
    """A method at one strength."""

    @property
    def method(self) -> str: ...

    @property
    def kl(self) -> float | None: ...


def value_at(known: Iterable[tuple[float, float, float]], kl: float) -> tuple[float, float] | None:
    """A value and its half-width at a KL, from (KL, value, half-width) at every strength.

    Linear between neighbouring strengths; None outside.
    """
    for (left, low, low_half), (right, high, high_half) in pairwise(sorted(known, key=lambda point: point[0])):
        if left <= kl <= right:
            part = 0.0 if right == left else (kl - left) / (right - left)
            half = (((1 - part) * low_half) ** 2 + (part * high_half) ** 2) ** 0.5
            return (1 - part) * low + part * high, half
    return None


def equal_kls(points: Sequence[AtKL], count: int = 3) -> list[float]:
    """KLs that every method that optimises logits reaches: evenly spaced inside the common range."""
    by_method: dict[str, list[float]] = {}
    for point in points:
        if is_gradient_method(point.method) and point.kl is not None:
            by_method.setdefault(point.method, []).append(point.kl)
    kls = [values for values in by_method.values() if len(values) > 1]
    low, high = max(map(min, kls), default=0.0), min(map(max, kls), default=0.0)
    return [low + (high - low) * (i + 0.5) / count for i in range(count)] if high > low else []
