"""Measuring and tuning on problems whose answer is known."""

import math

import pytest
import torch

from catreparam import exact_gradient, make_estimator, measure, tune
from catreparam.gradients import Reference, count_evaluations, reference_gradient, seconds_per_draw
from catreparam.objectives.toy import OBJECTIVES, make_objective
from methods import seeded

LOGITS = torch.tensor([[0.3, -0.5, 1.1], [0.0, 0.9, -0.7]], dtype=torch.float64)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_toy_objectives_take_any_batch_and_keep_the_dtype(name):
    objective = make_objective(name, num_variables=2, num_classes=3)
    x = torch.softmax(torch.randn(5, 4, 2, 3, generator=seeded()), -1)
    assert objective(x).shape == (5, 4)
    assert objective(x.half()).dtype == torch.float16
    assert torch.allclose(objective(x)[2, 1], objective(x[2, 1]), atol=1e-6)
    assert torch.equal(make_objective(name, num_variables=2, num_classes=3)(x), objective(x))


def test_lookup_table_reads_its_table_at_the_vertices():
    objective = make_objective("table", num_variables=3, num_classes=2)
    x = torch.eye(2)[torch.tensor([1, 0, 1])]
    assert objective(x).item() == pytest.approx(objective.table[1, 0, 1].item())


def test_exact_gradient_equals_finite_differences():
    objective = make_objective("mlp", num_variables=2, num_classes=3)
    step, found = 1e-6, exact_gradient(objective, LOGITS)
    for row, column in [(0, 1), (1, 2)]:
        nudge = torch.zeros_like(LOGITS)
        nudge[row, column] = step
        up, down = (expected_loss(objective, LOGITS + sign * nudge) for sign in (1, -1))
        assert found[row, column].item() == pytest.approx((up - down) / (2 * step), rel=1e-6)


def expected_loss(objective, logits):
    p = torch.softmax(logits, -1)
    vertices = torch.eye(3, dtype=logits.dtype)
    return sum(
        (p[0, i] * p[1, j] * objective(torch.stack([vertices[i], vertices[j]]))).item()
        for i in range(3)
        for j in range(3)
    )


def test_measure_reports_the_known_bias_and_variance_of_straight_through():
    # f(x) = x_0 x_0 weighted: one variable, gradient at vertex k is 2 a_k e_k, so J(p) g has closed-form moments
    a, p = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), torch.softmax(LOGITS[0], -1)
    covariance = torch.diag(p) - torch.outer(p, p)
    draws = torch.stack([covariance @ (2 * a * torch.eye(3, dtype=torch.float64)[k]) for k in range(3)])
    mean = p @ draws
    exact = covariance @ a
    bias = (mean - exact).square().sum() / exact.square().sum()
    variance = (p @ (draws - mean).square().sum(1)) / exact.square().sum()
    stats = measure(
        lambda x: x.square() @ a, LOGITS[0], estimator="straight_through", num_draws=20_000, generator=seeded()
    )
    assert abs(stats.squared_bias - bias) < 5 * stats.squared_bias_stderr
    assert abs(stats.variance - variance) < 5 * stats.variance_stderr
    assert stats.mse == pytest.approx(stats.squared_bias + stats.variance)
    assert stats.law_error < 4 * stats.law_noise


def test_measure_sees_the_law_of_redge_drift_at_small_t1():
    drifting = make_estimator("redge", num_steps=2, t1=0.1)
    logits = torch.randn(10, generator=seeded(3))
    stats = measure(lambda x: x[..., 0], logits, estimator=drifting, num_draws=5_000, generator=seeded())
    assert stats.law_error > 0.1


def test_a_reference_by_many_draws_agrees_with_enumeration():
    objective = make_objective("mlp", num_variables=2, num_classes=3)
    exact = exact_gradient(objective, LOGITS)
    found = reference_gradient(objective, LOGITS, max_configurations=2, num_draws=4_000, generator=seeded())
    assert found.variance > 0
    assert (found.gradient - exact).square().sum() < 9 * found.variance
    stats = measure(
        objective, LOGITS, estimator="straight_through", reference=found, num_draws=2_000, generator=seeded()
    )
    again = measure(
        objective, LOGITS, estimator="straight_through", reference=exact, num_draws=2_000, generator=seeded()
    )
    assert stats.squared_bias == pytest.approx(again.squared_bias, abs=5 * stats.squared_bias_stderr)
    assert isinstance(found, Reference)


@pytest.mark.parametrize(
    ("name", "num_samples", "wanted"),
    [("redge", 1, 1), ("reinmax", 4, 4), ("rloo", 3, 3), ("rebar", 1, 3), ("unbiased_redge", 2, 4), ("arsm", 1, 4)],
)
def test_evaluations_are_counted(name, num_samples, wanted):
    objective = make_objective("mlp", num_variables=2, num_classes=3)
    assert count_evaluations(objective, LOGITS, make_estimator(name), num_samples) == wanted


def test_tune_orders_by_its_criterion_and_marks_the_pareto_front():
    objective = make_objective("quadratic", num_variables=2, num_classes=3)
    result = tune(
        objective, LOGITS, estimators=["straight_through", "reinmax", "redge"], num_draws=400, generator=seeded()
    )
    scores = [row.score for row in result.rows]
    assert scores == sorted(scores)
    assert result.best is result.rows[0].estimator
    front = [row for row in result.rows if row.pareto]
    assert front
    for row in result.rows:
        beaten = any(
            other.stats.squared_bias < row.stats.squared_bias
            and other.stats.variance * other.evaluations < row.stats.variance * row.evaluations
            for other in front
        )
        assert beaten != row.pareto


def test_tune_by_training_reports_exact_losses_and_finds_bias_that_mse_forgives():
    objective = make_objective("misleading", num_variables=2, num_classes=3)
    result = tune(
        objective,
        LOGITS,
        estimators=["straight_through", make_estimator("rloo")],
        criterion="training",
        num_draws=100,
        training_steps=150,
        generator=seeded(),
    )
    assert result.best.name == "rloo"
    lowest = min(objective(torch.eye(3)[[i, j]]).item() for i in range(3) for j in range(3))
    assert all(row.final_loss is not None and row.final_loss > lowest - 1e-6 for row in result.rows)


def test_times_are_positive_for_every_estimator():
    objective = make_objective("mlp", num_variables=2, num_classes=3)
    made = [make_estimator("redge"), make_estimator("rloo")]
    times = seconds_per_draw(objective, LOGITS, made, num_samples=[1, 2], num_draws=20, rounds=2)
    assert len(times) == 2
    assert all(math.isfinite(time) and time > 0 for time in times)
