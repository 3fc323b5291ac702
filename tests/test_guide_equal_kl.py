"""Methods at equal KL: values, intervals that cover, groups that say nothing of spread, and the digits' report."""

import json
import math

import pytest
import torch

from catreparam.experiments.guide import study as guide
from catreparam.experiments.guide.equal_kl import Point, equal_kls, rows_at_equal_kl, value_at_kl
from catreparam.experiments.guide.report import point_of
from catreparam.experiments.runs.statistics import (
    agresti_coull_half,
    mean_and_interval,
    stratified_mean_and_interval,
)
from catreparam.models.digits_models import load_digits_models


def point(method, kl, *, strength=1.0, **values):
    """A point whose KL is known exactly; each quantity by group."""
    groups = next(iter(values.values()))
    kls = {} if kl is None else {"kl": [[kl] * len(group) for group in groups]}
    return Point(method, strength, {**kls, **values})


def test_intervals_leave_out_what_groups_differ_by():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    mean, half = stratified_mean_and_interval(values.tolist())
    shifted = stratified_mean_and_interval((values + 100 * torch.arange(5)[:, None]).tolist())
    assert shifted == (pytest.approx(mean + 200), pytest.approx(half))
    assert stratified_mean_and_interval([[1.0, 2.0, 4.0]]) == pytest.approx(mean_and_interval([1.0, 2.0, 4.0]))
    assert stratified_mean_and_interval([[1.0, 2.0], [3.0]])[1] is None


def test_intervals_at_equal_kl_cover_and_count_the_error_of_the_kl():
    """Reward 10 KL and little else: at a KL it is known nearly exactly, though each mean reward is not.

    2,000 studies of 5 groups of 4: coverage of 95 % intervals is within 2 % (five standard errors) but for the slope's
    error, which is of second order here.
    """
    generator, inside, halves = torch.Generator().manual_seed(0), 0, []
    for _ in range(2000):
        points = []
        for strength, centre in ((2.0, 4.0), (1.0, 8.0)):
            kl = centre + torch.randn(5, 4, generator=generator)
            reward = 10 * kl + 0.1 * torch.randn(5, 4, generator=generator)
            points.append(Point("straight_through", strength, {"kl": kl.tolist(), "reward": reward.tolist()}))
        value, half = value_at_kl(points, "reward", 6.0)
        inside += abs(value - 60.0) < half
        halves.append(half)
    assert abs(inside / 2000 - 0.95) < 0.025
    assert max(halves) < 0.1  # the mean rewards alone are known to 5


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.9), (0.95, 0.99)])
def test_intervals_of_an_accuracy_cover_where_its_kl_is_measured(low, high):
    """500 studies of 10 classes of 6 images: five standard errors are 4.9 %, which chance passes at 6e-7."""
    generator, inside = torch.Generator().manual_seed(0), 0
    unlike = torch.linspace(-1, 1, 10)[:, None]  # classes are not equally hard, nor equally far
    for _ in range(500):
        points = []
        for strength, centre, share in ((2.0, 4.0, low), (1.0, 8.0, high)):
            kl = centre + unlike + 3 * torch.randn(10, 6, generator=generator)
            right = torch.rand(10, 6, generator=generator) < share + unlike * min(share, 1 - share)
            points.append(Point("redge", strength, {"kl": kl.tolist(), "accuracy": right.double().tolist()}))
        value, half = value_at_kl(points, "accuracy", 6.0)
        inside += abs(value - (low + high) / 2) < half
    assert abs(inside / 500 - 0.95) < 0.05


@pytest.mark.parametrize("key", ["accuracy", "reward"])
def test_a_value_lies_between_its_neighbours_and_nowhere_else(key):
    points = [point("redge", kl, **{key: [[kl / 4, kl / 4]]}) for kl in (3.0, 1.0, 2.0)]
    assert value_at_kl(points, key, 2.5)[0] == pytest.approx(0.625)
    assert value_at_kl(points, key, 3.1) is None
    assert value_at_kl(points[:1], key, 3.0) is None
    assert value_at_kl(points, "pll", 2.5) is None
    assert value_at_kl([*points, point("redge", None, **{key: [[9.0, 9.0]]})], key, 2.5)[0] == pytest.approx(0.625)


def test_strengths_of_the_same_kl_are_no_error():
    points = [point("redge", kl, reward=[[value, value]]) for kl, value in ((1.0, 0.0), (1.0, 2.0), (3.0, 4.0))]
    assert value_at_kl(points, "reward", 2.0) == (3.0, 0.0)
    assert value_at_kl(points[:2], "reward", 1.0) is None


@pytest.mark.parametrize("key", ["accuracy", "reward"])
@pytest.mark.parametrize("values", [[[1.0], [1.0]], [[1.0, 0.0], [1.0]], [[0.0]]])
def test_a_group_of_one_gives_no_interval(key, values):
    points = [point(name, kl, **{key: values}) for name in ("redge", "reinmax") for kl in (1.0, 3.0)]
    rows = rows_at_equal_kl(points, [key])
    assert len(rows) == 6
    assert all(row[f"{key}_half"] is None for row in rows)
    assert [row["behind_half"] for row in rows if "behind" in row] == [None] * 3


@pytest.mark.parametrize("share", [[[1.0] * 6] * 10, [[0.0] * 6] * 10, [[1.0] * 6] * 9 + [[0.0] * 6], [[1.0, 1.0]]])
def test_an_accuracy_without_any_spread_keeps_an_interval(share):
    flat = [value for group in share for value in group]
    half = agresti_coull_half(sum(flat) / len(flat), len(flat))
    assert half > 0
    same = [point("redge", kl, accuracy=share) for kl in (1.0, 3.0)]
    assert value_at_kl(same, "accuracy", 2.0)[1] == pytest.approx(half / 2**0.5)
    assert value_at_kl([point("redge", kl, reward=share) for kl in (1.0, 3.0)], "reward", 2.0)[1] == 0.0  # no share


def test_without_spread_the_error_of_the_kl_comes_on_top():
    """All wrong at 1 nat, all right at 3 ± 1: at 3 the error is that of the share and, by the slope, that of the KL."""
    kls = [[2.0, 3.0, 4.0]]
    points = [point("redge", 1.0, accuracy=[[0.0] * 3]), Point("redge", 2.0, {"kl": kls, "accuracy": [[1.0] * 3]})]
    expected = math.hypot(agresti_coull_half(1.0, 3), 0.5 * mean_and_interval(kls[0])[1])
    assert value_at_kl(points, "accuracy", 3.0)[1] == pytest.approx(expected)


def test_a_class_that_is_always_right_leaves_the_spread_to_the_others():
    some = [[1.0, 0.0, 1.0, 0.0], [1.0] * 4]
    points = [point("redge", kl, accuracy=some) for kl in (1.0, 3.0)]
    assert value_at_kl(points, "accuracy", 1.0)[1] == pytest.approx(stratified_mean_and_interval(some)[1])


def test_equal_kls_lie_where_all_gradient_methods_reach():
    reached = (("redge", 1.0), ("redge", 4.0), ("reinmax", 2.0), ("reinmax", 8.0), ("svdd", 99.0))
    kls = equal_kls([point(method, kl, reward=[[0.0]]) for method, kl in reached])
    assert len(kls) == 3
    assert all(2.0 < kl < 4.0 for kl in kls)
    assert equal_kls([point("redge", 1.0, reward=[[0.5]])]) == []


def test_rows_say_how_far_behind_the_best_each_method_is_that_reaches_the_kl():
    spread = {"redge": 0.0, "reinmax": 2.0, "svdd": -3.0}
    points = [
        point(method, kl, reward=[[kl + shift - 1, kl + shift, kl + shift + 1]])
        for method, shift in spread.items()
        for kl in ((1.0, 4.0) if method != "svdd" else (2.0, 9.0))
    ]
    points += [point("unguided", 0.0, reward=[[0.0, 0.0]]), point("best_of_n", 2.0, reward=[[9.0, 9.0]])]
    points += [point("smc", None, strength=s, reward=[[9.0, 9.0]]) for s in (1.0, 2.0)]
    rows = rows_at_equal_kl(points, ["reward"])
    assert [row["method"] for row in rows] == ["reinmax", "redge", *["reinmax", "redge", "svdd"] * 2]
    for row in rows:
        assert row["reward"] == pytest.approx(row["kl"] + spread[row["method"]])
        if row["method"] != "reinmax":
            best = next(r for r in rows if r["kl"] == row["kl"])
            assert row["behind"] == pytest.approx(2.0 - spread[row["method"]])
            assert row["behind_half"] == pytest.approx(math.hypot(best["reward_half"], row["reward_half"]))


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    guide.run(
        guide.Config(
            reward="class:all",
            estimator=("straight_through", "reinmax"),
            rivals=("best_of_n", "smc"),
            kl_weights=(0.1, 4.0),
            num_images=20,
            num_rounds=2,
            num_steps=2,
            folder=folder,
        )
    )
    return folder


@pytest.mark.parametrize("reward", ["class:all", "class:3", "logit:all", "ink:0.2", "symmetry"])
def test_digits_are_compared_at_equal_kl_by_accuracy_or_by_the_reward(generated, reward):
    config = json.loads((generated / "config.json").read_text())
    config["config"]["reward"] = reward
    (generated / "config.json").write_text(json.dumps(config))
    report = guide.report_folder(generated)
    key, name = ("reward", "Reward") if reward in ("ink:0.2", "symmetry") else ("accuracy", "Held-out accuracy")
    every, *parts = report.table.parts()
    assert [title for title, _ in parts] == [f"{name} at a KL of {part.rows[0]['kl']:.2f} nats" for _, part in parts]
    assert len(parts) == 3
    for _, part in parts:
        best, other = part.rows
        assert {best["method"], other["method"]} == {"straight_through", "reinmax"}
        assert "behind the best" in [column.title for column in part.columns]
        assert other["behind"] == best[key] - other[key] >= 0
        assert other["behind_half"] > max(best[f"{key}_half"], other[f"{key}_half"]) > 0
        for row in part.rows:
            low, high = sorted((r for r in every[1].rows if r["method"] == row["method"]), key=lambda r: r["kl"])
            share = (row["kl"] - low["kl"]) / (high["kl"] - low["kl"])
            assert row[key] == pytest.approx((1 - share) * low[key] + share * high[key])
    assert "knows that the KL is measured too" in report.table.note
    assert "as its KL is a bound" in report.table.note


@pytest.mark.parametrize(("reward", "num_groups"), [("class:all", 10), ("class:3", 1), ("symmetry", 1)])
def test_images_are_grouped_by_the_class_they_are_to_become(reward, num_groups):
    generator, models = torch.Generator().manual_seed(0), load_digits_models()
    config = guide.Config(reward=reward, num_images=12, seeds=(0, 1))
    tokens = torch.randint(64, (2, 12, 49), generator=generator)
    records = [
        {"tokens": tokens[seed].tolist(), "kl": [100.0 * seed + i for i in range(12)], "seconds": 1.0}
        | {"method": "redge", "strength": 1.0, "reward": [0.0] * 12, "prior_log_prob": [0.0] * 12, "evaluations": 1}
        for seed in range(2)
    ]
    point = point_of(config, models, "redge", 1.0, records)
    places = [[12 * s + i for s in (0, 1) for i in range(12) if i % num_groups == g] for g in range(num_groups)]
    assert point.values["kl"] == [[100.0 * (n // 12) + n % 12 for n in group] for group in places]
    if reward == "symmetry":
        assert "accuracy" not in point.values
        return
    labels = models.heldout(models.vq.decode_tokens(tokens.flatten(0, 1))).argmax(-1)
    wanted = [i % 10 if num_groups == 10 else 3 for i in range(12)] * 2
    right = [float(label == want) for label, want in zip(labels.tolist(), wanted, strict=True)]
    assert point.values["accuracy"] == [[right[n] for n in group] for group in places]
    assert point.row["accuracy"] == pytest.approx(sum(right) / 24)
    assert point.row["accuracy_half"] == pytest.approx(agresti_coull_half(sum(right) / 24, 24))
