"""The facts of an estimator are found through everything that wraps it, and hold."""

import functools
import inspect

import pytest
import torch

import catreparam
from catreparam import ESTIMATORS, expectation, make_estimator
from catreparam.estimators import fewest_samples
from catreparam.estimators.facts import FAMILIES, Choice, Range, facts_of, resolve
from catreparam.estimators.sampling import check_hyperparameters, draw
from catreparam.schedules import ConstantSchedule, LinearSchedule, ScheduledEstimator
from methods import ALL, REPARAMETERISED, samples_needed, seeded

LOGITS = torch.linspace(-1, 1, 24).view(2, 3, 4)


def curved(x):
    """[*batch, 3, 4] -> [*batch]"""
    return (x[..., 0].sum(-1) - 1.2) ** 2 + x[..., 1].sum(-1) * x[..., 2].sum(-1)


def wrapped(name):
    """Everything that wraps an estimator, by what it is."""
    function = ESTIMATORS[name]
    return {
        "made": make_estimator(name),
        "partial": functools.partial(function),
        "partial of a partial": functools.partial(functools.partial(function)),
        "partial of a made one": functools.partial(make_estimator(name)),
        "scheduled": ScheduledEstimator(name),
        "partial of a scheduled one": functools.partial(ScheduledEstimator(name)),
    }


@pytest.mark.parametrize("name", ALL)
def test_whatever_wraps_an_estimator_has_its_facts(name):
    for what, estimator in wrapped(name).items():
        assert facts_of(estimator) is facts_of(name), what
        assert resolve(estimator).function is ESTIMATORS[name], what
        assert fewest_samples(estimator) == samples_needed(name), what
        assert facts_of(estimator).name == name, what
        assert catreparam.takes_objective(estimator) == facts_of(name).takes_objective, what


@pytest.mark.parametrize("name", ALL)
def test_expectation_of_a_wrapped_estimator_is_that_of_its_name(name):
    def gradient(estimator):
        logits = LOGITS.clone().requires_grad_()
        count = max(4, samples_needed(name))
        expectation(curved, logits, estimator=estimator, num_samples=count, generator=seeded()).sum().backward()
        return logits.grad

    wanted = gradient(name)
    for what, estimator in wrapped(name).items():
        assert torch.equal(gradient(estimator), wanted), what


@pytest.mark.parametrize("name", ALL)
def test_a_baseline_weight_is_allowed_or_refused_alike_through_wrappers(name):
    def outcome(estimator):
        try:
            expectation(curved, LOGITS, estimator=estimator, num_samples=2, baseline_weight=0.5, generator=seeded())
        except ValueError as error:
            return str(error)
        return "allowed"

    wanted = outcome(name)
    assert (wanted == "allowed") == facts_of(name).mean_jacobian({})
    for what, estimator in wrapped(name).items():
        assert outcome(estimator) == wanted, what


def test_a_temperature_bound_anywhere_takes_reinmaxs_baseline_away():
    warm = [
        make_estimator("reinmax", temperature=1.3),
        functools.partial(functools.partial(catreparam.reinmax, temperature=1.3)),
        ScheduledEstimator("reinmax", temperature=LinearSchedule(1.3, 1.0, num_steps=2)),
    ]
    for estimator in warm:
        with pytest.raises(ValueError, match="would bias reinmax"):
            expectation(curved, LOGITS, estimator=estimator, num_samples=2, baseline_weight=0.5)
    warm[-1].step(2)  # now at temperature 1
    expectation(curved, LOGITS, estimator=warm[-1], num_samples=2, baseline_weight=0.5)


def test_outer_hyperparameters_win_and_schedules_show_their_current_value():
    inner = functools.partial(catreparam.redge, num_steps=2, t1=0.9)
    assert resolve(functools.partial(inner, t1=0.5)).hyperparameters == {"num_steps": 2, "t1": 0.5}
    scheduled = ScheduledEstimator("redge", num_steps=3, t1=LinearSchedule(0.9, 0.5, num_steps=4))
    scheduled.step(2)
    assert resolve(scheduled).hyperparameters == pytest.approx({"num_steps": 3, "t1": 0.7})


def test_a_function_of_ones_own_has_the_facts_of_its_signature():
    def mine(logits, *, generator=None):
        return catreparam.reinmax(2 * logits, generator=generator)

    facts = facts_of(mine)
    assert (facts.name, facts.takes_objective, facts.fewest_samples) == ("mine", False, 1)
    assert not facts.mean_jacobian({})  # its logits are not those that it is given
    with pytest.raises(TypeError, match="name or a callable, got 3"):
        resolve(3)


def test_hyperparameters_are_checked_and_rows_drawn_through_wrappers():
    temperature = torch.tensor([0.5, 1.5]).requires_grad_()
    for what, estimator in wrapped("gumbel_softmax").items():
        with pytest.raises(ValueError, match="gumbel_softmax has no hyperparameter 't1'"):
            check_hyperparameters(estimator, {"t1": 0.5})
        x = draw(estimator, torch.zeros(2, 4), hyperparameters={"temperature": temperature}, generator=seeded())
        assert x.requires_grad, what  # the temperature's gradient


@pytest.mark.parametrize("name", ALL)
def test_facts_agree_with_the_function(name):
    facts, signature = facts_of(name), inspect.signature(ESTIMATORS[name])
    assert facts.family in FAMILIES
    assert (next(iter(signature.parameters)) == "objective") == facts.takes_objective
    for key, values in facts.search.items():
        assert key in facts.hyperparameters
        tried = [values.start, *values.grid]
        tried += [values.low, values.high] if isinstance(values, Range) else list(values.values)
        for value in tried:
            make_estimator(name, **{key: value})
        assert isinstance(values, Range | Choice)
    for key, kind in facts.owned.items():
        assert isinstance(make_estimator(name).keywords[key], kind)


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_what_relaxes_gives_points_inside_the_simplex(name):
    if facts_of(name).relaxes:
        x = ESTIMATORS[name](torch.zeros(8, 3), hard=False, generator=seeded())
        assert bool(((x > 0) & (x < 1)).all())
    else:
        with pytest.raises(ValueError, match=f"{name} has no relaxed sample: leave hard=False out, or use .*redge"):
            ESTIMATORS[name](torch.zeros(8, 3), hard=False)


def test_a_scheduled_estimator_calls_the_function_with_its_current_values():
    logits = torch.zeros(3, 4)
    x = ScheduledEstimator("redge", t1=ConstantSchedule(0.7))(logits, generator=seeded())
    assert torch.equal(x, catreparam.redge(logits, t1=0.7, generator=seeded()))
