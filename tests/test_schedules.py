"""Schedules follow their curves, resume where they were, and estimators follow them."""

import copy
import json
import math
import pickle

import pytest
import torch

from catreparam import expectation, make_estimator
from catreparam.schedules import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    LinearSchedule,
    PiecewiseSchedule,
    ScheduledEstimator,
)
from methods import seeded, smooth_loss

CURVES = {
    "constant": (lambda: ConstantSchedule(0.3), lambda step: 0.3),
    "linear": (lambda: LinearSchedule(1.0, 0.2, num_steps=10), lambda step: 1 - 0.08 * min(step, 10)),
    "rising": (lambda: LinearSchedule(0.0, 2.0, num_steps=4), lambda step: min(step, 4) / 2),
    "cosine": (
        lambda: CosineSchedule(1.0, 0.5, num_steps=8),
        lambda step: 0.75 + 0.25 * math.cos(math.pi * min(step, 8) / 8),
    ),
    "exponential": (lambda: ExponentialSchedule(2.0, 0.5, num_steps=6), lambda step: 2 * 0.25 ** (min(step, 6) / 6)),
    "decay": (lambda: ExponentialSchedule(2.0, 0.5, decay=0.9), lambda step: max(2 * 0.9**step, 0.5)),
    "growth": (lambda: ExponentialSchedule(0.5, 2.0, decay=1.1), lambda step: min(0.5 * 1.1**step, 2.0)),
    "piecewise": (
        lambda: PiecewiseSchedule([(2, 1.0), (4, 0.0), (8, 0.5)]),
        lambda step: 1.0 if step < 2 else 1 - (step - 2) / 2 if step < 4 else min((step - 4) / 8, 0.5),
    ),
}
MAKERS = pytest.mark.parametrize("make", [make for make, _ in CURVES.values()], ids=list(CURVES))


@pytest.mark.parametrize(("make", "curve"), CURVES.values(), ids=list(CURVES))
def test_value_follows_the_curve(make, curve):
    schedule = make()
    for step in range(20):
        assert schedule.value == pytest.approx(curve(step), abs=1e-9)
        assert float(schedule) == schedule.value
        assert schedule.step() == pytest.approx(curve(step + 1), abs=1e-9)
    assert make().step(7) == pytest.approx(curve(7), abs=1e-9)


@MAKERS
def test_a_schedule_resumes_where_its_state_was_taken(make):
    one, two = make(), make()
    one.step(5)
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert (two.num_taken, two.value) == (5, one.value)
    for twin in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert twin.step() == two.value_at(6)


@MAKERS
def test_a_schedule_prints_itself(make):
    names = {kind.__name__: kind for kind in (ConstantSchedule, LinearSchedule, CosineSchedule, ExponentialSchedule)}
    again = eval(repr(make()).replace("constant=", ""), {**names, "PiecewiseSchedule": PiecewiseSchedule})
    assert repr(again) == repr(make())


def test_states_of_other_schedules_are_refused():
    state = LinearSchedule(1.0, 0.2, num_steps=10).state_dict()
    with pytest.raises(ValueError, match=r"belongs to LinearSchedule\(start=1.0, end=0.2, num_steps=10\), not to"):
        LinearSchedule(1.0, 0.3, num_steps=10).load_state_dict(state)
    with pytest.raises(ValueError, match="needs num_taken and schedule"):
        ConstantSchedule(1.0).load_state_dict({"step": 3})
    with pytest.raises(ValueError, match="num_taken must be at least 0, got -1"):
        ConstantSchedule(1.0).load_state_dict({**ConstantSchedule(1.0).state_dict(), "num_taken": -1})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LinearSchedule(1.0, 0.2, num_steps=0), ValueError, "num_steps must be at least 1"),
        (lambda: LinearSchedule("a", 0.2, num_steps=3), TypeError, "start must be a real number"),
        (lambda: CosineSchedule(1.0, math.nan, num_steps=3), ValueError, "end must be finite"),
        (lambda: ExponentialSchedule(1.0, 0.0, num_steps=3), ValueError, "end must be greater than 0"),
        (lambda: ExponentialSchedule(1.0, 0.5), ValueError, "either num_steps or decay"),
        (lambda: ExponentialSchedule(1.0, 0.5, decay=1.1), ValueError, "does not lead from start=1.0 to end=0.5"),
        (lambda: PiecewiseSchedule([]), ValueError, "at least one"),
        (lambda: PiecewiseSchedule([(3, 1.0), (3, 2.0)]), ValueError, r"must increase, got \[3, 3\]"),
        (lambda: ConstantSchedule(0.5).step(0), ValueError, "count must be at least 1"),
        (lambda: ScheduledEstimator("redge", t1=LinearSchedule(1.5, 0.5, num_steps=3)), ValueError, "t1"),
        (lambda: ScheduledEstimator("redge", t2=ConstantSchedule(0.5)), ValueError, "unknown hyperparameter"),
    ],
)
def test_bad_settings_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "key"),
    [("redge", "t1"), ("gumbel_softmax", "temperature"), ("lambda_reinmax", "weight"), ("rebar", "eta")],
)
def test_a_scheduled_estimator_uses_the_current_value(name, key):
    estimator = ScheduledEstimator(name, **{key: LinearSchedule(0.9, 0.3, num_steps=3)})
    logits = torch.randn(5, 3, generator=seeded(1)).requires_grad_()

    def gradient(method):
        loss = expectation(smooth_loss, logits, estimator=method, generator=seeded(2))
        return torch.autograd.grad(loss.sum(), logits)[0]

    for value in (0.9, 0.7, 0.5, 0.3, 0.3):
        assert torch.allclose(gradient(estimator), gradient(make_estimator(name, **{key: value})), atol=1e-6)
        estimator.step()


def test_a_scheduled_estimator_resumes_copies_and_prints():
    def make():
        return ScheduledEstimator("exact_redge", num_noises=2, t1=CosineSchedule(0.9, 0.4, num_steps=10))

    one, two = make(), make()
    one.step(4)
    two.load_state_dict(one.state_dict())
    assert two.values() == one.values() == {"t1": CosineSchedule(0.9, 0.4, num_steps=10).value_at(4)}
    twin = pickle.loads(pickle.dumps(one))
    assert torch.equal(twin(torch.zeros(4, 3), generator=seeded()), one(torch.zeros(4, 3), generator=seeded()))
    assert repr(one).startswith("ScheduledEstimator('exact_redge', num_noises=2, t1=CosineSchedule(start=0.9")
    with pytest.raises(ValueError, match=r"this state schedules \['temperature'\], the estimator \['t1'\]"):
        one.load_state_dict({"temperature": {}})


@pytest.mark.parametrize("ramp", [LinearSchedule, CosineSchedule])
def test_a_ramp_without_its_steps_names_itself(ramp):
    with pytest.raises(TypeError, match=rf"^{ramp.__name__}\.__init__.*num_steps"):
        ramp(0.9, 0.5)
