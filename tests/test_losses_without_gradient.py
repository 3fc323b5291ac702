"""A loss that depends on x by argmax alone: one error with the remedy from every estimator that wants its gradient."""

import pytest
import torch

from catreparam import ESTIMATORS, expectation, measure, tune
from catreparam.estimators.facts import facts_of
from catreparam.guidance import RewardError, guided_sample, optimize_logits
from catreparam.integrations.gradient_variance import gradient_variance
from catreparam.masked_diffusion import as_denoiser
from methods import seeded

TABLE = torch.tensor([0.0, 1.0, 3.0])
PARAMETERS = TABLE.clone().requires_grad_()
SCORES = ("exact", "reinforce", "rloo", "arsm")  # need values alone
PATHWISE = [name for name in ESTIMATORS if name not in SCORES]


def by_index(x):
    return TABLE.to(x.dtype)[x.argmax(-1)].sum(-1)


def detached(x):
    return (x.detach() * TABLE.to(x.dtype)).sum((-1, -2))


def embedded(x):
    """Has parameters of its own: the loss requires a gradient, if not in x."""
    return PARAMETERS[x.argmax(-1)].sum(-1)


def leaf():
    return torch.zeros(2, 2, 3, requires_grad=True)


WITHOUT = [by_index, detached, embedded]


@pytest.mark.parametrize("objective", WITHOUT)
@pytest.mark.parametrize("num_samples", [None, 4])
@pytest.mark.parametrize("name", PATHWISE)
def test_its_gradient_is_one_error_with_the_remedy_and_its_value_is_good(name, num_samples, objective):
    logits = leaf()
    remedy = r"does not depend on x differentiably .*estimator='rloo'"
    relaxed = facts_of(name).takes_objective and name != "reinmax_rloo"  # these differentiate while they compute
    if relaxed:
        with pytest.raises(ValueError, match=remedy):
            expectation(objective, logits, estimator=name, num_samples=num_samples, generator=seeded())
        return
    loss = expectation(objective, logits, estimator=name, num_samples=num_samples, generator=seeded())
    assert loss.shape == (2,)
    with pytest.raises(ValueError, match=remedy):
        loss.sum().backward()
    again = expectation(objective, logits, estimator=name, num_samples=num_samples, generator=seeded())
    with pytest.raises(ValueError, match=remedy):  # beside a term that has a gradient, too
        (again.sum() + logits.square().sum()).backward()
    with torch.no_grad():
        plain = expectation(objective, logits, estimator=name, num_samples=num_samples, generator=seeded())
    assert torch.equal(plain, loss)


@pytest.mark.parametrize("objective", [by_index, embedded])
@pytest.mark.parametrize("name", SCORES)
def test_score_functions_take_it(name, objective):
    logits = leaf()
    expectation(objective, logits, estimator=name, generator=seeded()).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name", [name for name in PATHWISE if not facts_of(name).takes_objective])
def test_the_gradient_in_parameters_of_such_a_loss_is_good(name):
    table = TABLE.clone().requires_grad_()
    loss = expectation(lambda x: table[x.argmax(-1)].sum(-1), leaf(), estimator=name, generator=seeded())
    (gradient,) = torch.autograd.grad(loss.sum(), table)
    assert gradient.sum() == 4  # two examples of two variables


@pytest.mark.parametrize("name", PATHWISE)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_loss_with_parameters_and_a_gradient_in_x_passes_both_on(name, in_place):
    logits, weights = leaf(), torch.arange(1.0, 4.0, requires_grad=True)

    def objective(x):
        x = x.mul_(2) if in_place else 2 * x
        return (x * weights).sum((-1, -2))

    expectation(objective, logits, estimator=name, num_samples=2, generator=seeded()).sum().backward()
    assert logits.grad.abs().sum() > 0
    assert facts_of(name).takes_objective or weights.grad.abs().sum() > 0


def test_a_constant_loss_is_differentiable_when_it_says_so():
    logits = leaf()
    loss = expectation(lambda x: 0 * x.sum((-1, -2)) + 2, logits, estimator="reinmax")
    loss.sum().backward()
    assert torch.equal(logits.grad, torch.zeros(2, 2, 3))


def test_measure_tune_and_the_hook_say_it_too():
    logits, settings = torch.zeros(2, 3), {"num_draws": 5, "generator": seeded()}
    with pytest.raises(ValueError, match="estimator='rloo'"):
        measure(by_index, logits, estimator="reinmax", **settings)
    with pytest.raises(ValueError, match="estimator='rloo'"):
        tune(by_index, logits, estimators=["redge"], **settings)
    assert measure(by_index, logits, estimator="rloo", **settings).num_samples == 2
    with pytest.raises(ValueError, match=r"does not depend on the parameters differentiably.*rloo"):
        gradient_variance(lambda: by_index(torch.eye(3)), [torch.zeros(3, requires_grad=True)])
    with pytest.raises(ValueError, match=r"does not depend on the parameters differentiably.*rloo"):
        gradient_variance(lambda: embedded(torch.eye(3)), [torch.zeros(3, requires_grad=True)])


@pytest.mark.parametrize("reward", WITHOUT)
@pytest.mark.parametrize("name", PATHWISE)
def test_rewards_say_it_in_their_own_words(name, reward):
    with pytest.raises(RewardError, match="the reward does not depend on x differentiably"):
        optimize_logits(torch.zeros(1, 2, 3), reward, estimator=name, num_steps=1)
    denoiser = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 3), mask_token=3)
    with pytest.raises(RewardError, match="round 0: the reward does not depend on x differentiably"):
        guided_sample(denoiser, reward, torch.full((1, 2), 3), estimator=name, num_rounds=1, num_steps=1)
