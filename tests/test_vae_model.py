"""The categorical VAE's network and its objective."""

import pytest
import torch
from torch import nn

from catreparam.categorical import draw_one_hot
from catreparam.models.vae import CategoricalVAE
from catreparam.objectives.elbo import (
    bernoulli_log_likelihood,
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
