"""catreparam.gumbel_softmax takes the calls of torch.nn.functional.gumbel_softmax as they are."""

import inspect

import pytest
import torch
from torch.nn import functional

import catreparam
from catreparam.kernels import dispatch
from methods import seeded

LOGITS = torch.randn(6, 5, 4, generator=seeded())
SAME_AXIS = [
    pytest.param((0.7,), {}, id="bare tau"),
    pytest.param((0.7, True), {}, id="positions"),
    pytest.param((0.7, False), {}, id="positions, soft"),
    pytest.param((2,), {"hard": True}, id="integer tau"),
]
OTHER_AXES = [
    pytest.param((0.7, True, 1e-10, 1), {}, 1, id="positions"),
    pytest.param((), {"tau": 0.7, "hard": True, "dim": 0}, 0, id="keywords"),
]


@pytest.mark.parametrize(("arguments", "keywords"), SAME_AXIS)
def test_torchs_calls_give_torchs_samples_and_gradients(arguments, keywords, monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "naive")  # it draws its noise as torch does
    weights = torch.arange(LOGITS.numel(), dtype=torch.float32).view_as(LOGITS)
    found = []
    with torch.random.fork_rng():
        for function in (functional.gumbel_softmax, catreparam.gumbel_softmax):
            torch.manual_seed(0)
            logits = LOGITS.clone().requires_grad_()
            x = function(logits, *arguments, **keywords)
            found.append((x, *torch.autograd.grad((x * weights).sum(), logits)))
    (wanted_x, wanted_gradient), (x, gradient) = found
    assert torch.allclose(x, wanted_x, atol=1e-6)
    assert torch.allclose(gradient, wanted_gradient, atol=1e-4)


@pytest.mark.parametrize(("arguments", "keywords", "dim"), OTHER_AXES)
def test_torchs_calls_along_another_axis_are_one_hot_there(arguments, keywords, dim):
    x = catreparam.gumbel_softmax(LOGITS, *arguments, **keywords)
    assert torch.equal(x.sum(dim), torch.ones_like(x.sum(dim)))
    assert torch.equal(x.amax(dim), torch.ones_like(x.sum(dim)))


def test_the_signature_begins_with_torchs():
    ours = list(inspect.signature(catreparam.gumbel_softmax).parameters)
    assert ours[:5] == list(inspect.signature(functional.gumbel_softmax).parameters)


def test_without_tau_the_sample_is_hard_and_with_tau_soft():
    assert bool(((hard := catreparam.gumbel_softmax(LOGITS)) == hard.round()).all())
    assert not bool(((soft := catreparam.gumbel_softmax(LOGITS, tau=1.0)) == soft.round()).any())


def test_tau_and_temperature_together_are_an_error():
    with pytest.raises(ValueError, match=r"give one of them, got tau=0\.5 and temperature=2\.0"):
        catreparam.gumbel_softmax(LOGITS, tau=0.5, temperature=2.0)


@pytest.mark.parametrize(("tau", "error"), [(0.0, ValueError), (-1, ValueError), ("x", TypeError)])
def test_a_bad_tau_is_named(tau, error):
    with pytest.raises(error, match="tau must be"):
        catreparam.gumbel_softmax(LOGITS, tau)


def test_eps_warns_that_it_does_nothing():
    with pytest.warns(UserWarning, match="eps of gumbel_softmax has no effect"):
        catreparam.gumbel_softmax(LOGITS, eps=1e-6)


def test_made_estimators_know_tau_where_the_function_does():
    logits = torch.randn(4, 5, generator=seeded())
    by_tau = catreparam.make_estimator("gumbel_softmax", tau=0.7, hard=False)
    assert torch.equal(
        by_tau(logits, generator=seeded()), catreparam.gumbel_softmax(logits, tau=0.7, hard=False, generator=seeded())
    )
    with pytest.raises(ValueError, match=r"unknown hyperparameter of gumbel_rao 'tau'; use temperature"):
        catreparam.make_estimator("gumbel_rao", tau=0.5)


@pytest.mark.parametrize("path", ["naive", "torch", "compiled"])
@pytest.mark.parametrize("shape", [(5,), (1,), (5, 4), (4, 3, 5), (0, 4)])
def test_hard_and_soft_share_noise_and_gradient_along_every_axis(path, shape):
    weights = torch.randn(shape, generator=seeded(1))
    for dim in range(-len(shape), len(shape)):
        if shape[dim] == 0:
            continue
        found = []
        for hard in (True, False):
            logits = torch.randn(shape, generator=seeded(2)).requires_grad_()
            with dispatch.using(path):
                x = catreparam.gumbel_softmax(logits, 0.7, hard, dim=dim, generator=seeded(3))
            found.append((x, *torch.autograd.grad((x * weights).sum(), logits)))
        (x, gradient), (x_soft, wanted) = found
        assert torch.equal(x, functional.one_hot(x_soft.argmax(dim), shape[dim]).movedim(-1, dim).to(x.dtype))
        torch.testing.assert_close(gradient, wanted)
