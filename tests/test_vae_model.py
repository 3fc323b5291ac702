"""The categorical VAE's network and its objective."""

import math

import pytest
import torch
from torch import nn

from catreparam.categorical import draw_one_hot
from catreparam.models.vae import CategoricalVAE
from catreparam.objectives.elbo import (
    active_latents,
    bernoulli_log_likelihood,
    importance_weighted_bound,
    kl_to_uniform_prior,
    negative_elbo,
    negative_reconstruction,
)


def make_model(seed=0, **sizes):
    generator = torch.Generator().manual_seed(seed)
    return CategoricalVAE((28, 28), **{"num_latents": 48, "num_classes": 2, **sizes}, generator=generator)


def widths(network):
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)]


def test_the_default_network_is_the_papers():
    model = make_model()
    assert widths(model.encoder) == [784, 512, 256, 96]
    assert widths(model.decoder) == [96, 256, 512, 784]
    assert {type(layer) for layer in model.encoder} == {nn.Linear, nn.LeakyReLU}


def test_shapes_follow_image_latents_classes_and_samples():
    model = CategoricalVAE((8, 8), num_latents=5, num_classes=3, hidden_sizes=(7,))
    logits = model.encode(torch.rand(2, 8, 8))
    assert logits.shape == (2, 5, 3)
    assert model.decode(torch.rand(4, 2, 5, 3)).shape == (4, 2, 8, 8)


def test_weights_depend_on_the_generator_only():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, second, other = make_model(0), make_model(0), make_model(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    assert not torch.equal(first.encoder[0].weight, other.encoder[0].weight)


@pytest.mark.parametrize("sizes", [{"num_latents": 0}, {"num_classes": 1}, {"hidden_sizes": (0,)}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="got"):
        make_model(**sizes)


def test_log_likelihood_of_binary_pixels_is_the_bernoulli_one():
    logits, images = torch.randn(3, 4, 4), torch.randint(0, 2, (3, 4, 4)).float()
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(images).sum((1, 2))
    torch.testing.assert_close(bernoulli_log_likelihood(logits, images), expected)


def test_kl_to_the_uniform_prior_matches_the_definition():
    logits = torch.randn(3, 5, 4, dtype=torch.float64)
    p = torch.softmax(logits, -1)
    torch.testing.assert_close(kl_to_uniform_prior(logits), (p * (p * 4).log()).sum((1, 2)))
    assert kl_to_uniform_prior(torch.zeros(1, 5, 4)).abs().item() < 1e-5


def test_the_negative_elbo_bounds_the_negative_log_likelihood():
    model = CategoricalVAE((2, 2), num_latents=2, num_classes=3, hidden_sizes=(4,)).double()
    image = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    x = nn.functional.one_hot(codes, 3).double().unsqueeze(1)  # [9, 1, 2, 3]: every code
    logits = model.encode(image)
    log_likelihoods = -negative_reconstruction(model.decode, image)(x)  # [9, 1]
    probs = (torch.softmax(logits, -1) * x).sum(-1).prod(-1)
    bound = (probs * negative_elbo(model.decode, image, logits, x)).sum()
    assert bound >= -torch.logsumexp(log_likelihoods - torch.log(torch.tensor(9.0)), 0)


def test_extra_leading_axes_of_codes_are_samples():
    model = make_model()
    images = torch.rand(3, 28, 28)
    x = draw_one_hot(torch.ones(2, 3, 48, 2), torch.Generator().manual_seed(0))
    objective = negative_reconstruction(model.decode, images)
    torch.testing.assert_close(objective(x), torch.stack([objective(x[0]), objective(x[1])]))


@pytest.fixture(scope="module")
def enumerable():
    """A model with 9 codes, an image, every code, and the exact log p(image)."""
    generator = torch.Generator().manual_seed(0)
    model = CategoricalVAE((2, 2), num_latents=2, num_classes=3, hidden_sizes=(4,), generator=generator).double()
    image = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)
    codes = nn.functional.one_hot(torch.cartesian_prod(torch.arange(3), torch.arange(3)), 3).double().unsqueeze(1)
    log_likelihood = torch.logsumexp(-negative_reconstruction(model.decode, image)(codes), 0) - math.log(9)
    return model, image, codes, log_likelihood.item()


def test_the_importance_weighted_bound_of_one_sample_averages_to_the_negative_elbo(enumerable):
    model, image, codes, _ = enumerable
    logits = 20 * model.encode(image)
    probs = (torch.softmax(logits, -1) * codes).sum(-1).prod(-1).squeeze(-1)  # [9]
    bounds = torch.cat([importance_weighted_bound(model.decode, image, logits, code.unsqueeze(0)) for code in codes])
    elbos = torch.cat([negative_elbo(model.decode, image, logits, code) for code in codes])
    assert (probs @ bounds).item() == pytest.approx((probs @ elbos).item(), rel=1e-9)


def test_the_importance_weighted_bound_over_all_codes_of_a_uniform_encoder_is_the_log_likelihood(enumerable):
    model, image, codes, log_likelihood = enumerable
    bound = importance_weighted_bound(model.decode, image, torch.zeros(1, 2, 3).double(), codes)
    assert bound.item() == pytest.approx(-log_likelihood, rel=1e-9)


def test_active_latents_counts_those_that_depend_on_the_image():
    probs = torch.tensor([[[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]], [[0.1, 0.9], [0.3, 0.7], [0.45, 0.55]]])
    assert active_latents(probs) == 1
    assert active_latents(probs, threshold=0.001) == 2


def test_the_conv_network_halves_twice_and_takes_extra_sample_axes():
    model = make_model(network="conv", activation="relu")
    assert model.encode(torch.rand(3, 28, 28)).shape == (3, 48, 2)
    x = draw_one_hot(torch.ones(2, 3, 48, 2), torch.Generator().manual_seed(0))
    pixels = model.decode(x)
    assert pixels.shape == (2, 3, 28, 28)
    torch.testing.assert_close(pixels[1], model.decode(x[1]))
    with pytest.raises(ValueError, match="halves images twice, got 6x8"):
        CategoricalVAE((6, 8), num_latents=2, num_classes=2, network="conv")


def test_relu_and_leaky_relu_share_the_weights_of_a_seed():
    leaky, relu = make_model(0), make_model(0, activation="relu")
    assert all(map(torch.equal, leaky.parameters(), relu.parameters()))
    assert {type(layer) for layer in relu.encoder} == {nn.Linear, nn.ReLU}
