"""The categorical VAE: an MLP from an image to logits, and one from one-hot codes back to pixels."""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn


class CategoricalVAE(nn.Module):
    """Encoder p(x | image) over L categorical variables of K classes each, and decoder to Bernoulli pixels.

    With 784 pixels and no `hidden_sizes` this is the paper's network: 784-512-256-(L*K), its mirror image, LeakyReLU.
    It draws nothing and knows no estimator: what turns logits into one-hot codes is the caller's choice.

    Raises: ValueError for sizes below 1, or fewer than two classes.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        *,
        num_latents: int,
        num_classes: int,
        hidden_sizes: Sequence[int] = (),
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if num_latents < 1 or num_classes < 2:
            raise ValueError(f"need num_latents >= 1 and num_classes >= 2, got {num_latents} and {num_classes}")
        if any(size < 1 for size in hidden_sizes):
            raise ValueError(f"hidden_sizes must be positive, got {tuple(hidden_sizes)}")
        self.image_shape, self.num_latents, self.num_classes = image_shape, num_latents, num_classes
        num_pixels, code_size = math.prod(image_shape), num_latents * num_classes
        hidden = tuple(hidden_sizes) or default_hidden_sizes(num_pixels)
        self.encoder = _mlp((num_pixels, *hidden, code_size), generator)
        self.decoder = _mlp((code_size, *reversed(hidden), num_pixels), generator)

    def encode(self, images: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch num_latents num_classes"]:
        """Logits of the codes."""
        return self.encoder(images.flatten(-2)).unflatten(-1, (self.num_latents, self.num_classes))

    def decode(self, x: Float[Tensor, "*batch num_latents num_classes"]) -> Float[Tensor, "*batch h w"]:
        """Bernoulli logits of the pixels, from one-hot (or relaxed) codes."""
        return self.decoder(x.flatten(-2)).unflatten(-1, self.image_shape)


def default_hidden_sizes(num_pixels: int) -> tuple[int, int]:
    """The paper's (512, 256) from 784 pixels up; for smaller images twice and once the pixels, at least (64, 32).

    >>> default_hidden_sizes(784), default_hidden_sizes(64)
    ((512, 256), (128, 64))
    """
    widest = 512 if num_pixels >= 784 else min(512, max(64, 2 * num_pixels))
    return widest, widest // 2


def _mlp(sizes: Sequence[int], generator: Generator | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [_linear(size_in, size_out, generator), nn.LeakyReLU()]
    return nn.Sequential(*layers[:-1])  # the last layer stays linear


def _linear(size_in: int, size_out: int, generator: Generator | None) -> nn.Linear:
    """nn.Linear with its usual initial law, drawn from `generator` rather than from torch's global state."""
    layer = nn.Linear(size_in, size_out, device="meta").to_empty(device="cpu")  # no draw from the global state
    bound = 1 / math.sqrt(size_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
