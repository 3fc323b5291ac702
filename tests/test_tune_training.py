"""`tune_training`: who goes on, what is compared, what ends the race, and what a bad `train` is told."""

import math
import re

import pytest
import torch

from catreparam import ESTIMATORS, Estimator, expectation, make_estimator, tune_training
from catreparam.cli import main
from catreparam.gradients import SEARCH_SPACE
from catreparam.gradients.tune import candidates
from methods import seeded

NAMES = [name for name in ESTIMATORS if name in candidates()]
"""What is tried unasked with one sample."""


class Told:
    """A `train` whose losses are told in advance by name; it counts how far it was taken and who was closed."""

    def __init__(self, losses):
        self.losses, self.taken, self.closed = losses, dict.fromkeys(losses, 0), set()

    def __call__(self, estimator):
        try:
            for value in self.losses[estimator.name]:
                self.taken[estimator.name] += 1
                yield value
        finally:
            self.closed.add(estimator.name)


def falling(to):
    """Ever nearer to `to`."""
    return (to + 1 / 2**step for step in range(1000))


def raced(losses, **given):
    told = Told(losses)
    given = {"search_space": {}, "max_seconds": 1e6} | given
    return told, tune_training(told, estimators=list(losses), **given)


@pytest.mark.parametrize("first", [1, 4])
@pytest.mark.parametrize("reduction", [2, 3])
@pytest.mark.parametrize("best", range(9))
def test_the_best_goes_on_and_nobody_is_trained_further_than_the_rounds_say(best, first, reduction):
    names = NAMES[:9]
    told, result = raced(
        {name: falling((i - best) % 9) for i, name in enumerate(names)}, first=first, reduction=reduction
    )
    assert result.recommended.name == names[best]
    assert [row.estimator.name for row in result.rows] == [names[(best + i) % 9] for i in range(9)]
    wanted, alive = dict.fromkeys(range(9), first), 9
    while (alive := math.ceil(alive / reduction)) > 1:
        wanted |= dict.fromkeys(range(alive), wanted[0] * reduction)
    assert [len(row.values) for row in result.rows] == list(wanted.values())
    assert result.compared == wanted[0]
    assert result.finalists == sum(count == wanted[0] for count in wanted.values())
    assert {name: told.taken[name] for name in names} == {r.estimator.name: len(r.values) for r in result.rows}
    assert told.closed == set(names)  # memory of all is free
    assert not result.out_of_time


def test_a_training_that_ends_keeps_its_last_value():
    _, result = raced({"redge": iter([5.0, 1.0]), "reinmax": falling(2.0), "rloo": falling(9.0)}, reduction=2)
    assert [(row.estimator.name, len(row.values)) for row in result.rows] == [("redge", 2), ("reinmax", 2), ("rloo", 1)]
    _, result = raced({"redge": iter([5.0]), "reinmax": iter([4.0])})
    assert result.rows[0].estimator.name == "reinmax"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_diverges_leaves_the_race_whatever_it_was_before(bad):
    _, result = raced({"redge": iter([0.0, bad]), "reinmax": falling(2.0), "rloo": falling(3.0)}, first=2)
    assert [row.estimator.name for row in result.rows] == ["reinmax", "rloo", "redge"]
    assert result.rows[-1].diverged
    with pytest.raises(ValueError, match="no setting gave a finite loss; lower the learning rate"):
        raced({"redge": iter([bad])})


def test_arithmetic_errors_diverge():
    def train(estimator):
        yield 1.0 if estimator.name == "redge" else 1 / 0

    assert tune_training(train, estimators=["reinmax", "redge"], search_space={}).rows[1].diverged


@pytest.mark.parametrize("values", range(1, 7))
def test_when_time_is_up_the_last_whole_round_decides(values, monkeypatch):
    """A value takes a second; the second setting becomes the best in the second round, with the sixth value."""
    clock = [0.0]

    def slow(losses):
        for loss in losses:
            clock[0] += 1.0
            yield loss

    told = {name: slow([float(i), 10.0 - i]) for i, name in enumerate(NAMES[:4])}
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    _, result = raced(told, reduction=2, max_seconds=values - 0.5)
    assert sum(len(row.values) for row in result.rows) == values
    assert result.out_of_time == (values < 6)
    assert result.recommended.name == NAMES[values == 6]
    assert [row.estimator.name for row in result.rows if not row.values] == NAMES[values:4]
    assert ("not tried for want of time" in str(result)) == (values < 4)
    assert (result.compared, result.finalists) == ((2, 2) if values == 6 else (1, values if values < 4 else 2))


def test_learning_rates_are_tried_for_every_setting_and_shown():
    seen = []

    def train(estimator, learning_rate):
        seen.append((estimator.name, learning_rate))
        yield learning_rate if estimator.name == "redge" else 3.0

    result = tune_training(train, estimators=["redge", "rloo"], search_space={}, learning_rates=[0.5, 0.25])
    assert sorted(seen) == [(n, r) for n in ("redge", "rloo") for r in (0.25, 0.5)]
    assert (result.rows[0].estimator.name, result.rows[0].learning_rate) == ("redge", 0.25)
    assert str(result).startswith("Recommended: redge at learning rate 0.25, the best of 4 settings")


def test_unasked_it_tries_every_method_with_its_defaults_and_a_name_over_its_space():
    def train(estimator):
        yield 1.0

    for num_samples in (1, 2):
        rows = tune_training(train, num_samples=num_samples).rows
        assert [row.show() for row in rows] == list(candidates(num_samples))  # no hyperparameter is given
    rows = tune_training(train, estimators=["redge", make_estimator("redge", t1=0.6)]).rows
    assert len(rows) == 1 + len(SEARCH_SPACE["redge"]["t1"])


@pytest.mark.parametrize("outside", [True, False])
def test_a_training_that_yields_inside_no_grad_takes_gradients_from_nobody(outside):
    """A context that a generator is left in stays on for whoever runs next, unless somebody puts it back."""

    def train(estimator):
        for _ in range(4):
            assert torch.is_grad_enabled()
            with torch.no_grad():
                yield 1.0 + (estimator.name != "reinmax")

    with torch.set_grad_enabled(outside):
        result = tune_training(train, estimators=["redge", "reinmax", "rloo"], search_space={}, reduction=2)
        assert torch.is_grad_enabled() == outside
    assert result.recommended.name == "reinmax"


def test_a_training_that_yields_inside_inference_mode_is_told():
    def train(estimator):
        with torch.inference_mode():
            yield 1.0

    with pytest.raises(ValueError, match=r"inference_mode\(\) with redge.*; yield outside of it"):
        tune_training(train, estimators=["redge"])
    assert not torch.is_inference_mode_enabled()


def test_every_training_has_an_estimator_of_its_own_that_may_learn():
    seen = []

    def train(estimator, learning_rate):
        seen.append(estimator)
        yield learning_rate

    made = make_estimator("relax")
    tune_training(train, estimators=[made], learning_rates=[0.1, 0.2])
    networks = [made.keywords["control_variate"], *(one.keywords["control_variate"] for one in seen)]
    assert len({id(network) for network in networks}) == 3


def test_it_finds_the_estimator_that_trains_best():
    """Straight-through does not leave the start on |x - 0.45|^1.5, ReinMax does: a fact, no chance of failure."""

    def train(estimator):
        logits, generator = torch.zeros(16, 2, requires_grad=True), seeded()
        adam = torch.optim.Adam([logits], lr=0.1)
        while True:
            for _ in range(10):
                adam.zero_grad()
                rows = logits.expand(64, -1, -1)
                expectation(lambda x: (x[..., 1] - 0.45).abs().pow(1.5).mean(-1), rows, estimator=estimator,
                            generator=generator).mean().backward()  # fmt: skip
                adam.step()
            yield logits.softmax(-1)[:, 1].mean()  # E of the loss is linear in it

    names = ["straight_through", "redge", "reinmax"]
    assert tune_training(train, estimators=names, search_space={}, first=3).recommended.name == "reinmax"


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        (lambda estimator: 1.0, TypeError, "must be a generator function, which yields its losses; it returned float"),
        (lambda estimator: [1.0], TypeError, "it returned list"),
        (lambda estimator: iter([]), ValueError, "train yielded no loss with redge:t1=0.6"),
    ],
)
def test_a_bad_train_is_one_clear_error(train, error, message):
    with pytest.raises(error, match=re.escape(message)):
        tune_training(train, estimators=[make_estimator("redge", t1=0.6)])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"first": 0}, "first must be"),
        ({"max_seconds": math.inf}, "max_seconds must be greater than 0 and finite, got inf"),
        ({"max_seconds": math.nan}, "max_seconds must be greater than 0, got nan"),
        ({"reduction": 1}, "reduction must be"),
        ({"max_seconds": 0}, "max_seconds must be greater than 0"),
        ({"num_samples": 0}, "num_samples must be"),
        ({"learning_rates": [0.1, -1.0]}, "learning_rates must be greater than 0, got -1.0"),
        ({"estimators": []}, "estimators must name at least one"),
        ({"estimators": ["regde"]}, "Did you mean 'redge'"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_trained(given, message):
    def train(estimator: Estimator):
        raise AssertionError("trained")
        yield 0.0

    with pytest.raises(ValueError, match=message):
        tune_training(train, **given)


MODULE = """
def train(estimator, learning_rate=1.0):
    while True:
        yield learning_rate * (1.0 if estimator.name == "reinmax" else 2.0)
"""


def test_the_command_says_what_it_found_and_writes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_race.py").write_text(MODULE)
    words = ["tune", "training", "--train", "my_race:train", "--lr", "0.5", "0.1", "--folder", "out"]
    assert main(words) == 0
    assert "Recommended: reinmax at learning rate 0.1\n" in capsys.readouterr().out
    table = (tmp_path / "out" / "table.csv").read_text()
    assert table.splitlines()[1].startswith("reinmax at learning rate 0.1,0.1,")
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tune training", "--train is missing: give your generator function as module:function"),
        ("tune training --train no_such_module:f", "cannot import 'no_such_module'"),
        ("tune trainin", "Did you mean 'training'"),
    ],
)
def test_bad_commands_are_one_line(words, message, capsys):
    assert main(words.split()) == 2
    assert message in capsys.readouterr().err
