"""Timing several things fairly: in turn, in shuffled order; medians and how far the quartiles lie apart."""

import random
from collections.abc import Iterator, Sequence
from statistics import quantiles
from typing import TypeVar

Thing = TypeVar("Thing")


def in_turn(things: Sequence[Thing], rounds: int, *, warm_up: int = 1) -> Iterator[tuple[Thing, bool]]:
    """Every thing once a round, and whether that round counts: `warm_up` more come first, which do not.

    The order is shuffled anew in every round, so that nobody always follows the same neighbour.

    >>> [(thing, counted) for thing, counted in in_turn(["one"], 2)]
    [('one', False), ('one', True), ('one', True)]
    """
    order = random.Random(0)
    for turn in range(warm_up + rounds):
        for thing in order.sample(things, len(things)):
            yield thing, turn >= warm_up


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The median, and half the distance between the quartiles.

    >>> median_and_spread([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    low, middle, high = quantiles(values, n=4)
    return middle, (high - low) / 2
