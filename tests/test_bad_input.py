"""Bad input never gives an answer: an error names the value and the remedy."""

import pytest
import torch

import catreparam as c
from catreparam import ESTIMATORS, expectation, make_estimator
from catreparam.estimators import fewest_samples
from catreparam.estimators.facts import facts_of
from methods import ALL, REPARAMETERISED, SCORE_FUNCTION, loss_of, seeded

GOOD = torch.zeros(4, 3)


def with_value(value):
    logits = GOOD.clone()
    logits[1, 2] = value
    return logits


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (with_value(float("nan")), ValueError, "logits hold 1 NaN"),
        (with_value(float("inf")), ValueError, r"logits hold \+inf"),
        (torch.full((4, 3), -torch.inf), ValueError, "4 row\\(s\\) of logits allow no class"),
        (torch.zeros(4, 3, dtype=torch.long), TypeError, r"floating tensor, got torch.int64; call logits.float\(\)"),
        (torch.zeros(4, 0), ValueError, "num_classes must be at least 1, got logits of shape \\(4, 0\\)"),
        (torch.tensor(1.0), ValueError, "class axis, got a 0-dimensional tensor"),
        ([[0.0, 1.0]], TypeError, "must be a torch.Tensor, got list"),
    ],
    ids=["nan", "+inf", "nothing-allowed", "integer", "no-classes", "scalar", "list"],
)
def test_bad_logits_are_named(name, logits, error, message):
    with pytest.raises(error, match=message):
        loss_of(name, logits, generator=seeded())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (
            torch.ones(4, 2, dtype=torch.bool),
            ValueError,
            r"mask of shape \(4, 2\) does not broadcast to logits .*\(4, 3\)",
        ),
        (torch.ones(2, 4, 3, dtype=torch.bool), ValueError, "does not broadcast"),
        (torch.ones(4, 3), TypeError, "mask must be boolean"),
        ([True] * 3, TypeError, "mask must be a boolean torch.Tensor"),
        (torch.zeros(3, dtype=torch.bool), ValueError, "allow no class"),
    ],
    ids=["shape", "too-many-axes", "float", "list", "nothing-allowed"],
)
def test_bad_masks_are_named(name, mask, error, message):
    with pytest.raises(error, match=message):
        loss_of(name, GOOD, mask=mask, generator=seeded())


BAD_VALUES = {
    "num_steps": [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError), ("4", TypeError)],
    "t1": [(0.0, ValueError), (-0.1, ValueError), (1.5, ValueError), (float("nan"), ValueError), ("x", TypeError)],
    "temperature": [(0.0, ValueError), (-1.0, ValueError), (float("inf"), ValueError), (None, TypeError)],
    "forward_temperature": [(0.0, ValueError)],
    "backward_temperature": [(0, ValueError)],
    "num_noises": [(0, ValueError), (1.0, TypeError)],
    "weight": [(-0.1, ValueError), (2.1, ValueError)],
    "second_order_weight": [(-0.1, ValueError), (3, ValueError)],
    "grid": [("alhpa", ValueError)],
    "solver": [("rk4", ValueError)],
    "gap": [(-1.0, ValueError), ("q", ValueError)],
    "eta": [(float("nan"), ValueError), ("1", TypeError)],
    "chunk_size": [(0, ValueError)],
    "max_configurations": [(0, ValueError)],
    "baseline": [("mean", TypeError)],
}
CASES = [
    (name, key, value, error)
    for name in ALL
    for key in facts_of(name).hyperparameters
    for value, error in BAD_VALUES.get(key, [])
]


@pytest.mark.parametrize(("name", "key", "value", "error"), CASES)
def test_hyperparameters_out_of_range_are_named_when_made_and_when_called(name, key, value, error):
    with pytest.raises(error, match=key):
        make_estimator(name, **{key: value})
    arguments = (GOOD,) if name in REPARAMETERISED else (lambda x: x[..., 0], GOOD)
    with pytest.raises(error, match=key):
        ESTIMATORS[name](*arguments, **{key: value})


def test_every_hyperparameter_is_covered_above():
    keys = {key for name in ALL for key in facts_of(name).hyperparameters}
    assert keys - set(BAD_VALUES) == {"hard", "control_variate"}


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_hard_must_be_a_bool(name):
    with pytest.raises(TypeError, match="hard must be True or False, got 'no'"):
        ESTIMATORS[name](GOOD, hard="no")


@pytest.mark.parametrize("name", ALL)
def test_keywords_are_strict(name):
    arguments = (GOOD,) if name in REPARAMETERISED else (lambda x: x[..., 0], GOOD)
    with pytest.raises(TypeError, match="n_steps"):
        ESTIMATORS[name](*arguments, n_steps=5)
    if name != "gumbel_softmax":  # takes torch's positional arguments too
        with pytest.raises(TypeError):
            ESTIMATORS[name](*arguments, 1.0)


def test_unknown_names_come_with_the_nearest_one():
    with pytest.raises(ValueError, match="Did you mean 'redge'"):
        make_estimator("regde")
    with pytest.raises(ValueError, match="'n_steps'; use num_steps"):
        make_estimator("redge", n_steps=5)
    with pytest.raises(ValueError, match="'temperature'; it has no temperature"):
        make_estimator("straight_through", temperature=1.0)
    with pytest.raises(ValueError, match="Did you mean 'reinmax'"):
        expectation(lambda x: x[..., 0], GOOD, estimator="reinmx")
    with pytest.raises(TypeError, match="a name or a callable, got 3"):
        expectation(lambda x: x[..., 0], GOOD, estimator=3)


@pytest.mark.parametrize("name", ALL)
def test_num_samples_is_checked(name):
    for value, error in [(0, ValueError), (1.5, TypeError)]:
        with pytest.raises(error, match="num_samples"):
            expectation(lambda x: x[..., 0], GOOD, estimator=name, num_samples=value)


def test_rloo_needs_two_samples():
    with pytest.raises(ValueError, match="num_samples of at least 2"):
        expectation(lambda x: x[..., 0], GOOD, estimator="rloo", num_samples=1)


@pytest.mark.parametrize("name", ["redge", *SCORE_FUNCTION])
@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        (lambda x: x, ValueError, "one loss per example"),
        (lambda x: x.sum(-1)[:2], ValueError, r"got shape \(2,\)"),
        (lambda x: 1.0, TypeError, "must return a torch.Tensor, got float"),
        (lambda x: x.argmax(-1), TypeError, "floating tensor, got torch.int64"),
    ],
    ids=["per-class", "wrong-batch", "float", "integer"],
)
def test_losses_of_the_wrong_shape_are_named(name, objective, error, message):
    num_samples = fewest_samples(name)
    with pytest.raises(error, match=message):
        expectation(objective, GOOD.clone().requires_grad_(), estimator=name, num_samples=num_samples)


def test_baselines_that_would_bias_are_refused():
    with pytest.raises(ValueError, match="would bias gumbel_softmax"):
        expectation(lambda x: x[..., 0], GOOD, estimator="gumbel_softmax", num_samples=2, baseline_weight=0.8)
    tempered = make_estimator("reinmax", temperature=1.3)
    with pytest.raises(ValueError, match="would bias reinmax"):
        expectation(lambda x: x[..., 0], GOOD, estimator=tempered, num_samples=2, baseline_weight=0.8)


def test_masks_are_checked_for_any_class_axis():
    with pytest.raises(ValueError, match="does not broadcast"):
        expectation(lambda x: x[0], GOOD.t(), estimator="redge", dim=0, mask=torch.ones(2, 2, dtype=torch.bool))


def test_generators_are_checked():
    with pytest.raises(TypeError, match=r"torch\.Generator or None, got int"):
        c.redge(GOOD, generator=0)


@pytest.mark.parametrize("dim", [2, -3, 1.0])
def test_class_axis_is_checked(dim):
    with pytest.raises((ValueError, TypeError), match="dim must"):
        c.redge(GOOD, dim=dim)


@pytest.mark.parametrize(
    ("lambdas", "message"),
    [
        ((), "at least one lambda"),
        ((1.0, 0.5), "must not decrease"),
        ((-1.0, 0.0), "at least 0"),
        ((float("inf"),), "inf"),
    ],
)
def test_schedules_are_checked(lambdas, message):
    with pytest.raises(ValueError, match=message):
        c.NoiseSchedule(lambdas)


def test_the_value_checks_can_be_switched_off():
    bad = with_value(float("nan"))
    try:
        c.set_validation(False)
        assert c.redge(bad).shape == bad.shape
    finally:
        c.set_validation(True)
    with pytest.raises(ValueError, match="NaN"):
        c.redge(bad)


def test_measuring_needs_an_enumerable_problem_or_a_reference():
    with pytest.raises(ValueError, match="configurations, more than max_configurations"):
        c.exact_gradient(lambda x: x.sum((-1, -2)), torch.zeros(40, 3))
    with pytest.raises(ValueError, match="num_draws must be at least 2, got 1"):
        c.measure(lambda x: x[..., 0], torch.zeros(3), estimator="redge", num_draws=1)
    with pytest.raises(ValueError, match="criterion"):
        c.tune(lambda x: x[..., 0], torch.zeros(3), criterion="msee")
