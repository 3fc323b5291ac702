"""Facts about expectations. Each test may fail by chance at the rate it states; all noise is seeded."""

import pytest
import torch
from scipy import stats

from catreparam import ESTIMATORS, exact_gradient, expectation, make_estimator, measure
from catreparam.kernels import dispatch
from catreparam.kernels.compiled import library
from catreparam.objectives.toy import make_objective
from methods import EXACT_LAW, REPARAMETERISED, UNBIASED, samples_needed, seeded, setting_for

FAILURE_RATE = 1e-3  # shared out over the cases of a test
OBJECTIVES = ["quadratic", "power", "mlp", "table", "misleading"]
LOGITS = torch.tensor([[0.3, -0.5, 1.1], [0.0, 0.9, -0.7]], dtype=torch.float64)

pytestmark = pytest.mark.statistical


@pytest.fixture(params=["compiled", "torch", "naive"])
def logits(request):
    """LOGITS in a dtype that the path takes, with calls inside the test taking it."""
    if request.param == "compiled" and not library.BUILT:
        pytest.skip("the kernels were not built")
    with dispatch.using(request.param):
        yield LOGITS.float() if request.param == "compiled" else LOGITS


def test_every_path_is_the_one_that_is_tested(logits):
    assert dispatch.choose_path(setting_for("redge"), logits) == dispatch.wanted()


@pytest.mark.parametrize("objective_name", OBJECTIVES)
@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_estimators_agree_with_enumeration(name, objective_name):
    # z below 4 in each of 6 entries: a chance of 4e-4 a case were the noise not seeded
    objective = make_objective(objective_name, num_variables=2, num_classes=3)
    result = measure(
        objective,
        LOGITS,
        estimator=make_estimator(name),
        num_samples=samples_needed(name),
        num_draws=2_000 if name == "exact" else 20_000,
        generator=seeded(7),
    )
    assert result.z_score < 4


@pytest.mark.parametrize("objective_name", OBJECTIVES)
def test_disarm_for_two_classes_agrees_with_enumeration(objective_name):
    objective = make_objective(objective_name, num_variables=3, num_classes=2)
    logits = torch.tensor([[0.3, -0.5], [0.0, 0.9], [2.0, -1.0]], dtype=torch.float64)
    assert measure(objective, logits, estimator="arsm", num_draws=20_000, generator=seeded(4)).z_score < 4


@pytest.mark.parametrize("name", ["straight_through", "gumbel_softmax", "redge"])
def test_the_same_test_finds_the_bias_of_biased_estimators(name, logits):
    objective = make_objective("mlp", num_variables=2, num_classes=3)
    assert measure(objective, logits, estimator=name, num_draws=20_000, generator=seeded(7)).z_score > 10


@pytest.mark.parametrize("name", ["reinmax", "transport_redge", "exact_redge"])
def test_second_order_methods_are_unbiased_for_quadratics(name, logits):
    settings = {"reinmax": {}, "transport_redge": {"second_order_weight": 1.0}}
    settings["exact_redge"] = {"second_order_weight": 1.0, "num_steps": 8}
    objective = make_objective("quadratic", num_variables=2, num_classes=3)
    made = make_estimator(name, **settings[name])
    assert measure(objective, logits, estimator=made, num_draws=20_000, generator=seeded(3)).z_score < 4


@pytest.mark.parametrize("name", ["straight_through", "reinmax", "lambda_reinmax", "transport_redge", "exact_redge"])
def test_covariance_estimators_are_unbiased_for_linear_objectives(name, logits):
    weights = torch.arange(6, dtype=logits.dtype).reshape(2, 3)
    made = make_estimator(name, num_steps=8) if name == "exact_redge" else make_estimator(name)
    result = measure(
        lambda x: (x * weights).sum((-1, -2)), logits, estimator=made, num_draws=20_000, generator=seeded(3)
    )
    assert result.z_score < 4


@pytest.mark.parametrize("name", EXACT_LAW)
def test_exact_laws_follow_softmax_of_the_logits(name, logits):
    count, row = 20_000, logits[0]
    x = ESTIMATORS[name](row.expand(count, 3), generator=seeded(11))
    expected = count * torch.softmax(row.double(), -1)
    pvalue = stats.chisquare(x.double().sum(0).numpy(), expected.numpy()).pvalue
    assert pvalue > FAILURE_RATE / len(EXACT_LAW) / 3


def test_the_chi_square_finds_the_biased_law_of_covariance_matched_redge(logits):
    row = torch.randn(64, generator=seeded(0)).to(logits.dtype)
    x = ESTIMATORS["redge_cov"](row.expand(20_000, 64), num_steps=2, t1=0.3, generator=seeded(1))
    expected = 20_000 * torch.softmax(row.double(), -1)
    assert stats.chisquare(x.double().sum(0).numpy(), expected.numpy()).pvalue < 1e-12


@pytest.mark.parametrize(("objective_name", "limit"), [("quadratic", 0.88), ("mlp", 1.0)])
@pytest.mark.parametrize("name", ["reinmax", "lambda_reinmax", "exact_redge", "transport_redge"])
def test_leave_one_out_baselines_keep_the_mean_and_beat_the_plain_average(name, objective_name, limit, logits):
    objective = make_objective(objective_name, num_variables=2, num_classes=3)
    gradients = {}
    for weight in (0.0, None):
        leaf = logits.expand(20_000, 2, 3).clone().requires_grad_()
        loss = expectation(objective, leaf, estimator=name, num_samples=4, baseline_weight=weight, generator=seeded(5))
        (gradients[weight],) = torch.autograd.grad(loss.sum(), leaf)
    plain, better = gradients[0.0], gradients[None]
    difference = better - plain
    standard_error = difference.std(0) / len(difference) ** 0.5
    assert bool((difference.mean(0).abs() < 4 * standard_error + 2e-3 * plain.mean(0).abs().max()).all())
    assert better.var(0).sum() < limit * plain.var(0).sum()


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_more_samples_lower_the_variance(name, logits):
    objective = make_objective("quadratic", num_variables=2, num_classes=3)
    one, four = (
        measure(objective, logits, estimator=name, num_samples=count, num_draws=4_000, generator=seeded(2)).variance
        for count in (1, 4)
    )
    assert four < 0.35 * one


@pytest.mark.parametrize("name", ["straight_through", "rebar", "relax", "unbiased_redge", "rloo", "exact_redge"])
def test_parameters_inside_the_objective_get_their_ordinary_gradient(name):
    # E[w . x] has gradient p with respect to w; the mean of n one-hot draws is within 5 standard errors of it
    weight = torch.zeros(3, requires_grad=True)
    count, p = 4_000, torch.softmax(LOGITS[0].float(), -1)
    loss = expectation(
        lambda x: x @ weight,
        LOGITS[0].float().expand(count, 3),
        estimator=name,
        num_samples=samples_needed(name),
        generator=seeded(9),
    )
    (gradient,) = torch.autograd.grad(loss.mean(), weight)
    assert bool(((gradient - p).abs() < 5 * (p * (1 - p) / count).sqrt()).all())


def test_relax_learns_to_lower_its_variance():
    objective = make_objective("mlp", num_variables=2, num_classes=3)
    estimator = make_estimator("relax")
    before = measure(objective, LOGITS, estimator=estimator, num_draws=5_000, generator=seeded(1)).variance
    parameters = list(estimator.keywords["control_variate"].parameters())
    optimizer, generator = torch.optim.Adam(parameters, lr=0.02), seeded(2)
    for _ in range(150):
        optimizer.zero_grad()
        leaf = LOGITS.expand(200, 2, 3).clone().requires_grad_()
        expectation(objective, leaf, estimator=estimator, generator=generator).mean().backward()
        optimizer.step()
    after = measure(objective, LOGITS, estimator=estimator, num_draws=5_000, generator=seeded(1))
    assert after.variance < 0.97 * before
    assert after.z_score < 4


def test_exact_gradient_equals_the_closed_form():
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    p = torch.softmax(LOGITS[0], -1)
    wanted = p * (weights - p @ weights)
    assert torch.allclose(exact_gradient(lambda x: x @ weights, LOGITS[0]), wanted)
