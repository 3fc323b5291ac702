"""Gumbel-Rao's gradient by hand against the naive twin, and in every way autograd can be asked."""

import pytest
import torch
from scipy import stats

import catreparam
from catreparam.estimators.gumbel_rao import gumbel_rao_surrogate
from catreparam.kernels import dispatch
from catreparam.kernels.torch import gumbel_rao as conditional_gumbels
from catreparam.kernels.torch.gumbel_rao import draw_noise, gumbel_rao_gradient
from methods import seeded

F64 = torch.float64
FAILURE_RATE = 1e-3  # of a whole statistical test


def given(*shape, dtype=F64):
    generator = seeded(3)
    logits = (2 * torch.randn(shape, generator=generator, dtype=F64)).to(dtype).requires_grad_()
    index = torch.randint(shape[-1], shape[:-1], generator=generator)
    upstream = torch.randn(shape, generator=generator, dtype=F64).to(dtype)
    return logits, torch.nn.functional.one_hot(index, shape[-1]).to(dtype), upstream


@pytest.mark.parametrize("num_classes", [1, 2, 3, 16, 17, 100])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 2.3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (torch.float32, 2e-5)])
def test_gradient_equals_the_naive_twin(num_classes, temperature, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(conditional_gumbels, "BLOCK", 3 * 2 * 5 * num_classes)  # three noises at a time
    logits, x, upstream = given(2, 5, num_classes, dtype=dtype)
    noise = draw_noise(logits, 10, seeded(7))
    assert noise.shape == (10, 2, 5, num_classes)
    naive = gumbel_rao_surrogate(logits, noise=noise, x=x, temperature=temperature)
    wanted = torch.autograd.grad(naive, logits, upstream)[0]
    found = gumbel_rao_gradient(logits, upstream, noise=noise, x=x, temperature=temperature)
    assert (found.dtype, found.shape, found.is_contiguous()) == (dtype, logits.shape, True)
    assert (found - wanted).abs().max() < tolerance / temperature


def test_impossible_classes_get_no_gradient_and_spoil_none():
    logits, _, upstream = given(2, 5, 4)
    with torch.no_grad():
        logits[..., 1] = -torch.inf
    x = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=F64).expand(2, 5, 4)
    noise = draw_noise(logits, 10, seeded(7))
    naive = gumbel_rao_surrogate(logits, noise=noise, x=x, temperature=0.5)
    found = gumbel_rao_gradient(logits, upstream, noise=noise, x=x, temperature=0.5)
    assert (found - torch.autograd.grad(naive, logits, upstream)[0]).abs().max() < 1e-10
    assert bool((found[..., 1] == 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_noise_is_exponential(dtype):
    noise = draw_noise(torch.zeros(100, 2, dtype=dtype), 1000, seeded(0))
    assert stats.kstest(noise.flatten().numpy(), "expon").pvalue > FAILURE_RATE
    assert bool((noise > 0).all() and noise.isfinite().all())


@pytest.mark.parametrize("num_classes", [2, 5, 40])
def test_both_paths_estimate_the_same_gradient(num_classes):
    logits = torch.linspace(-1, 1, num_classes).expand(100_000, num_classes)
    upstream = torch.arange(num_classes, dtype=torch.float32).square()
    means, errors = [], []
    for path in ("", "naive"):
        leaf = logits.clone().requires_grad_()
        with dispatch.using(path):
            x = catreparam.gumbel_rao(leaf, num_noises=3, generator=seeded(1))
        gradients = torch.autograd.grad((x * upstream).sum(), leaf)[0]
        means.append(gradients.mean(0))
        errors.append(gradients.std(0) / len(leaf) ** 0.5)
    z = (means[0] - means[1]) / (errors[0] ** 2 + errors[1] ** 2).sqrt()
    assert float(z.abs().max()) < stats.norm.isf(FAILURE_RATE / 2 / num_classes)


def test_the_sample_obeys_the_generator_and_may_be_changed_in_place():
    logits, _, upstream = given(6, 3, dtype=torch.float32)

    def run(generator):
        x = catreparam.gumbel_rao(logits, generator=generator)
        hard = x.detach().clone()
        return hard, torch.autograd.grad(x.mul_(2), logits, upstream)[0]

    generator = seeded(5)
    first, second, again = run(generator), run(generator), run(seeded(5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], second[1])


def test_second_derivatives_are_the_naive_twins():
    logits, _, upstream = given(4, 3)
    x = catreparam.gumbel_rao(logits, num_noises=4, temperature=0.7, generator=seeded(2))
    gradient = torch.autograd.grad(x, logits, upstream, create_graph=True, retain_graph=True)[0]
    plain = torch.autograd.grad(x, logits, upstream)[0]
    assert (gradient - plain).abs().max() < 1e-10
    (curvature,) = torch.autograd.grad(gradient.square().sum(), logits)
    assert curvature.abs().sum() > 0
