"""Intervals and paired differences of tables."""

import pytest
from scipy import stats

from catreparam.experiments.runs.statistics import band, compare, mean_and_interval, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 9, 30, 31, 60, 200, 5000])
def test_quantiles_of_students_t(degrees):
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-3)


def test_the_interval_is_scipys():
    values = [3.0, 4.5, 2.5, 5.0]
    mean, half = mean_and_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=mean, scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-3)
    assert mean_and_interval([1.0]) == (1.0, None)


def test_differences_are_paired_so_what_a_seed_does_to_both_cancels():
    luck = {0: 0.0, 1: 10.0, 2: -10.0}
    compared = compare({"a": luck, "b": {seed: value + 1 for seed, value in luck.items()}})
    assert compared["a"]["difference"] == 0.0
    assert compared["a"]["difference_half"] is None
    assert compared["b"]["difference"] == pytest.approx(1.0)
    assert compared["b"]["difference_half"] == pytest.approx(0.0, abs=1e-9)
    assert compared["b"]["half"] > 20


def test_only_seeds_that_both_have_are_compared():
    compared = compare({"a": {0: 1.0, 1: 2.0}, "b": {1: 2.5, 2: 100.0}, "c": {}})
    assert compared["b"]["difference"] == pytest.approx(0.5)
    assert "c" not in compared


def test_bands_need_three_curves_and_end_with_the_shortest():
    assert band([[1.0, 2.0], [3.0, 4.0]]) == ([2.0, 3.0], [])
    mean, half = band([[1.0, 2.0, 9.0], [2.0, 3.0], [3.0, 4.0]])
    assert mean == [2.0, 3.0]
    assert half == pytest.approx([2.484, 2.484], abs=1e-3)


def test_differences_to_a_named_reference_are_paired_by_seed():
    runs = {"a": {0: 1.0, 1: 2.0}, "b": {0: 3.0, 1: 5.0}, "c": {7: 1.0}}
    compared = compare(runs, reference="b")
    assert compared["b"]["difference"] == 0.0
    assert compared["a"]["difference"] == -2.5
    assert compared["c"]["difference"] is None  # no seed in common
    assert compare({"a": {0: 1.0}}, reference="b")["a"]["difference"] is None


def test_two_seeds_give_no_interval():
    assert mean_and_interval([1.0, 9.0]) == (5.0, None)
    compared = compare({"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 9.0}})
    assert compared["b"]["half"] is None
    assert compared["b"]["difference"] == 4.0
    assert compared["b"]["difference_half"] is None
    compared = compare({"a": {0: 1.0, 1: 2.0, 2: 4.0}, "b": {0: 2.0, 1: 3.0, 2: 5.0}})
    assert compared["b"]["half"] > 0
    assert compared["b"]["difference_half"] == pytest.approx(0.0, abs=1e-9)  # the seed moves both alike
