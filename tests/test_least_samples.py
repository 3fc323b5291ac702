"""How many samples a method gets that was not told: the least that it takes, wherever it is called."""

import pytest
import torch

from catreparam import ESTIMATORS, expectation, measure
from catreparam.estimators.facts import facts_of
from catreparam.guidance import Annealed, guided_sample, optimize_logits
from catreparam.masked_diffusion import as_denoiser
from methods import seeded

LOGITS = torch.linspace(-1, 1, 12).view(2, 2, 3)
SEVERAL = [name for name in ESTIMATORS if facts_of(name).fewest_samples > 1]


def objective(x):
    return (x[..., 0].sum(-1) - 0.6) ** 2


@pytest.mark.parametrize("name", ESTIMATORS)
def test_expectation_takes_the_least_samples_that_the_estimator_needs(name):
    least = facts_of(name).fewest_samples
    losses = []
    for given in ({}, {"num_samples": None}, {"num_samples": least}):
        logits = LOGITS.clone().requires_grad_()
        loss = expectation(objective, logits, estimator=name, generator=seeded(), **given)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        losses.append((loss, gradient))
    for loss, gradient in losses[:2]:
        assert torch.equal(loss, losses[2][0])
        assert torch.equal(gradient, losses[2][1])


@pytest.mark.parametrize("name", SEVERAL)
def test_so_do_measure_and_guidance(name):
    assert measure(objective, LOGITS[0], estimator=name, num_draws=5, generator=seeded()).num_samples == 2
    reward, prior = (lambda x: x[..., 0].sum(-1)), torch.zeros(1, 2, 3)
    for estimator in (name, Annealed(lambda progress: name)):
        found = optimize_logits(prior, reward, estimator=estimator, num_steps=2, generator=seeded())
        assert found.evaluations.reward == 4
    denoiser = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 3), mask_token=3)
    start = torch.full((1, 2), 3)
    made = guided_sample(denoiser, reward, start, estimator=name, num_rounds=1, num_steps=2, generator=seeded())
    assert made.evaluations.reward == 5


@pytest.mark.parametrize("name", SEVERAL)
def test_fewer_than_it_needs_is_still_refused(name):
    with pytest.raises(ValueError, match="at least 2"):
        expectation(objective, LOGITS, estimator=name, num_samples=1)
