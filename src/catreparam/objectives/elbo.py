"""The evidence lower bound of a VAE with Bernoulli pixels and a uniform prior over categorical codes, in nats.

negative ELBO = -E[log p(image given x)] + KL(encoder || uniform); the KL is exact, the expectation is the estimator's.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from catreparam.categorical import finite, kl_to_uniform

Decoder = Callable[[Tensor], Tensor]


def bernoulli_log_likelihood(
    pixel_logits: Float[Tensor, "*batch h w"], images: Float[Tensor, "*#batch h w"]
) -> Float[Tensor, "*batch"]:
    """log p(image) per example, summed over pixels. Grey pixels in (0, 1) count as expected binary ones."""
    targets = images.expand_as(pixel_logits)
    return -binary_cross_entropy_with_logits(pixel_logits, targets, reduction="none").sum((-2, -1))


def negative_reconstruction(
    decode: Decoder, images: Float[Tensor, "batch h w"]
) -> Callable[[Float[Tensor, "*samples batch num_latents num_classes"]], Float[Tensor, "*samples batch"]]:
    """The objective x -> -log p(image given x) for these images; extra leading axes of x are further samples."""
    return lambda x: -bernoulli_log_likelihood(decode(x), images)


def kl_to_uniform_prior(logits: Float[Tensor, "*batch num_latents num_classes"]) -> Float[Tensor, "*batch"]:
    """KL from the encoder's law to the uniform prior, summed over the independent codes of an example."""
    return kl_to_uniform(logits).sum(-1)


def negative_elbo(
    decode: Decoder,
    images: Float[Tensor, "batch h w"],
    logits: Float[Tensor, "batch num_latents num_classes"],
    x: Float[Tensor, "*samples batch num_latents num_classes"],
) -> Float[Tensor, "*samples batch"]:
    """The negative ELBO per example at given codes x; unbiased when x is drawn from softmax(logits)."""
    return negative_reconstruction(decode, images)(x) + kl_to_uniform_prior(logits)


def importance_weighted_bound(
    decode: Decoder,
    images: Float[Tensor, "batch h w"],
    logits: Float[Tensor, "batch num_latents num_classes"],
    x: Float[Tensor, "num_samples batch num_latents num_classes"],
) -> Float[Tensor, " batch"]:
    """-log of the mean of p(image, x) / q(x given image) over exact draws x: an upper bound on -log p(image).

    With one sample its mean is the negative ELBO; it falls towards -log p(image) as samples are added.
    Reference: Burda et al. 2016, https://arxiv.org/abs/1509.00519.
    """
    num_latents, num_classes = logits.shape[-2:]
    log_q = (x * finite(torch.log_softmax(logits, -1))).sum((-2, -1))  # [S, B]
    log_joint = -negative_reconstruction(decode, images)(x) - num_latents * math.log(num_classes)
    return math.log(len(x)) - torch.logsumexp(log_joint - log_q, 0)


def active_latents(probs: Float[Tensor, "num_images num_latents num_classes"], threshold: float = 0.01) -> int:
    """The number of latents that depend on the image: those whose class probabilities vary over images.

    Active: the variance over images of the encoder's probabilities, summed over classes, exceeds `threshold`. It is 0
    for a latent that ignores the image, and 1 - 1 / K for one that names K equally frequent groups without doubt.
    After Burda et al. 2016, whose latents were Gaussian, with their threshold.
    """
    return int((probs.var(0, unbiased=False).sum(-1) > threshold).sum())
