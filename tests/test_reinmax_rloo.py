"""The mixture of ReinMax and the score function: its samples, its weight, its gradient."""

import pytest
import torch
from scipy import stats

from catreparam import exact_gradient, expectation, make_estimator
from catreparam.estimators.reinmax_rloo import draw_stratified, mixing_weight
from methods import seeded

FAILURE_RATE = 1e-3  # of each statistical test, by chance


def many_variables(x):
    """[*batch, 6, 3] -> [*batch]: quadratic, so that ReinMax has no bias."""
    weights = torch.linspace(-1, 1, 18).reshape(6, 3)
    return (x * weights).sum((-1, -2)) ** 2 + 3 * (x * weights.flip(0)).sum((-1, -2))


def misleading(x):
    """[*batch, 1, 2] -> [*batch]: flat at both vertices, which differ, so gradients at hard samples say nothing."""
    a = x[..., 0, 0]
    return 3 * a**2 - 2 * a**3


def draws(objective, logits, estimator, num_samples, repeats=400, batch=64):
    rows, gradients = logits.expand(batch, *logits.shape), []
    for seed in range(repeats):
        leaf = rows.clone().requires_grad_()
        loss = expectation(objective, leaf, estimator=estimator, num_samples=num_samples, generator=seeded(seed))
        gradients.append(torch.autograd.grad(loss.sum(), leaf)[0])
    return torch.cat(gradients)  # [repeats * batch, *logits.shape]


@pytest.mark.statistical
def test_every_stratified_sample_alone_follows_the_law():
    probs = torch.tensor([0.0, 0.5, 0.03, 0.0, 0.47, 0.0])
    x = draw_stratified(probs.expand(20_000, 6), 4, seeded())
    for sample in x:
        counts = sample.sum(0)
        assert (counts[probs == 0] == 0).all()
        kept = probs > 0
        assert stats.chisquare(counts[kept].numpy(), (20_000 * probs[kept]).numpy()).pvalue > FAILURE_RATE / 4


def test_across_strata_a_class_comes_up_within_one_of_its_share():
    probs = torch.softmax(torch.randn(500, 5, generator=seeded()), -1)
    counts = draw_stratified(probs, 8, seeded(1)).sum(0)
    assert ((counts - 8 * probs).abs() < 1 + 1e-4).all()


@pytest.mark.statistical
def test_variables_of_a_sample_are_independent():
    x = draw_stratified(torch.full((20_000, 2, 2), 0.5), 2, seeded())[0, ..., 0]
    both = x.prod(-1).mean().item()
    assert abs(both - 0.25) < stats.norm.isf(FAILURE_RATE / 2) * (0.25 * 0.75 / 20_000) ** 0.5


@pytest.mark.statistical
@pytest.mark.parametrize("num_samples", [2, 3, 4])
def test_without_bias_for_quadratic_objectives(num_samples):
    logits = torch.randn(6, 3, generator=seeded(5))
    found = draws(many_variables, logits, "reinmax_rloo", num_samples)
    wanted = exact_gradient(many_variables, logits)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - wanted).abs() < stats.norm.isf(FAILURE_RATE / 36) * error).all()


@pytest.mark.statistical
def test_less_variance_than_reinmax_with_as_many_samples():
    logits = 0.3 * torch.randn(6, 3, generator=seeded(5))
    ours, theirs = (
        draws(many_variables, logits, estimator, 8, repeats=100).var(0).sum().item()
        for estimator in (
            "reinmax_rloo",
            lambda logits, generator: make_estimator("reinmax")(logits, generator=generator),
        )
    )
    assert ours < 0.5 * theirs  # 0.2 in truth, with a standard error of about 0.01


@pytest.mark.statistical
def test_takes_the_score_function_where_gradients_mislead():
    logits = torch.tensor([[0.3, -0.2]])
    found, wanted = draws(misleading, logits, "reinmax_rloo", 4), exact_gradient(misleading, logits)
    assert (found.mean(0) - wanted).norm() < 0.2 * wanted.norm()  # ReinMax alone finds nothing: an error of 1


def test_the_weight_is_one_for_a_perfect_reinmax_and_nought_for_a_useless_one():
    truth = torch.randn(10, 2, 3, generator=seeded())
    noise = torch.randn(4, 10, 2, 3, generator=seeded(1))
    perfect = truth.expand(4, 10, 2, 3)
    assert mixing_weight(perfect, truth + 3 * noise, 2, 1).mean() > 0.9
    assert mixing_weight(perfect + 100 * noise, perfect, 2, 1).max() < 0.05


def test_the_gradient_scales_with_the_loss_and_may_be_asked_for_twice():
    logits = torch.randn(8, 6, 3, generator=seeded()).requires_grad_()
    loss = expectation(many_variables, logits, estimator="reinmax_rloo", num_samples=4, generator=seeded(2))
    once, twice = (torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for _ in range(2))
    scaled = torch.autograd.grad(2.5 * loss.sum(), logits)[0]
    assert torch.equal(once, twice)
    torch.testing.assert_close(scaled, 2.5 * once)


def test_a_second_derivative_is_refused():
    logits = torch.randn(8, 6, 3, generator=seeded()).requires_grad_()
    loss = expectation(many_variables, logits, estimator="reinmax_rloo", num_samples=4, generator=seeded(2))
    (first,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    (again,) = torch.autograd.grad(loss.sum(), logits, create_graph=True)
    assert torch.equal(first, again)
    with pytest.raises(RuntimeError, match="no second derivatives; use reinmax or rloo"):
        again.square().sum().backward()


@pytest.mark.parametrize("after", [False, True])
def test_a_gradient_of_its_samples_alone_is_refused(after):
    logits, seen = torch.zeros(8, 6, 3, requires_grad=True), []

    def objective(x):
        seen.append(x)
        return many_variables(x)

    loss = expectation(objective, logits, estimator="reinmax_rloo", num_samples=4, generator=seeded())
    if after:
        loss.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="reached the samples of reinmax_rloo, but not through its losses"):
        sum(x.sum() for x in seen).backward()


def test_one_sample_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        expectation(misleading, torch.zeros(1, 2), estimator="reinmax_rloo", num_samples=1)
