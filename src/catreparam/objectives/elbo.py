"""The evidence lower bound of a VAE with Bernoulli pixels and a uniform prior over categorical codes, in nats.

negative ELBO = -E[log p(image given x)] + KL(encoder || uniform); the KL is exact, the expectation is the estimator's.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from catreparam.categorical import kl_to_uniform

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

    def objective(x: Tensor) -> Tensor:
        return -bernoulli_log_likelihood(decode(x), images)

    return objective


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
