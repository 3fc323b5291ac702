"""The categorical VAE: a network from an image to logits, and one from one-hot codes back to pixels."""

import itertools
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from catreparam.validation import check_choice

ACTIVATIONS: dict[str, type[nn.Module]] = {"leaky_relu": nn.LeakyReLU, "relu": nn.ReLU}
NETWORKS = ("mlp", "conv")
CHANNELS, CONV_WIDTH = (32, 64), 256  # of the convolutional network: two halvings of the image, then one hidden layer

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class CategoricalVAE(nn.Module):
    """Encoder p(x | image) over L categorical variables of K classes each, and decoder to Bernoulli pixels.

    With 784 pixels and no `hidden_sizes` the `mlp` is the paper's network: 784-512-256-(L*K), its mirror image,
    LeakyReLU (ReinMax's with activation="relu"). `conv` halves the image twice by strided convolutions with 32 and 64
    channels and mirrors that in the decoder; `hidden_sizes` are then the layers between (256 if none are given).
    It draws nothing and knows no estimator: what turns logits into one-hot codes is the caller's choice.

    Raises: ValueError for sizes below 1, fewer than two classes, an unknown network or activation, or an image whose
        sides `conv` cannot halve twice.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        *,
        num_latents: int,
        num_classes: int,
        hidden_sizes: Sequence[int] = (),
        network: str = "mlp",
        activation: str = "leaky_relu",
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if num_latents < 1 or num_classes < 2:
            raise ValueError(f"need num_latents >= 1 and num_classes >= 2, got {num_latents} and {num_classes}")
        if any(size < 1 for size in hidden_sizes):
            raise ValueError(f"hidden_sizes must be positive, got {tuple(hidden_sizes)}")
        act = ACTIVATIONS[check_choice("activation", activation, ACTIVATIONS)]
        self.image_shape, self.num_latents, self.num_classes = image_shape, num_latents, num_classes
        code_size = num_latents * num_classes
        if check_choice("network", network, NETWORKS) == "mlp":
            hidden = tuple(hidden_sizes) or default_hidden_sizes(math.prod(image_shape))
            self.encoder = _mlp((math.prod(image_shape), *hidden, code_size), act, generator)
            self.decoder = _mlp((code_size, *reversed(hidden), math.prod(image_shape)), act, generator)
        else:
            hidden = tuple(hidden_sizes) or (CONV_WIDTH,)
            self.encoder = _conv_encoder(image_shape, hidden, code_size, act, generator)
            self.decoder = _conv_decoder(image_shape, hidden, code_size, act, generator)

    def encode(self, images: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch num_latents num_classes"]:
        """Logits of the codes."""
        return self.encoder(images.flatten(-2)).unflatten(-1, (self.num_latents, self.num_classes))

    def decode(self, x: Float[Tensor, "*batch num_latents num_classes"]) -> Float[Tensor, "*batch h w"]:
        """Bernoulli logits of the pixels, from one-hot (or relaxed) codes."""
        flat = x.flatten(-2)
        one_batch_axis = flat.flatten(0, -2) if flat.ndim > 2 else flat  # conv takes no more
        pixels = self.decoder(one_batch_axis)  # [B, h * w]
        return pixels.reshape(*flat.shape[:-1], *self.image_shape)


def default_hidden_sizes(num_pixels: int) -> tuple[int, int]:
    """The paper's (512, 256) from 784 pixels up; for smaller images twice and once the pixels, at least (64, 32).

    >>> default_hidden_sizes(784), default_hidden_sizes(64)
    ((512, 256), (128, 64))
    """
    widest = 512 if num_pixels >= 784 else min(512, max(64, 2 * num_pixels))
    return widest, widest // 2


def _mlp(sizes: Sequence[int], activation: type[nn.Module], generator: Generator | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [_drawn(nn.Linear(size_in, size_out, device="meta"), size_in, generator), activation()]
    return nn.Sequential(*layers[:-1])  # the last layer stays linear


def _conv_encoder(
    shape: tuple[int, int], hidden: Sequence[int], code_size: int, act: type[nn.Module], generator: Generator | None
) -> nn.Sequential:
    """Flat pixels [B, h * w] -> [B, code_size]."""
    (height, width), (few, many) = _quarter(shape), CHANNELS
    return nn.Sequential(
        nn.Unflatten(-1, (1, *shape)),
        _drawn(nn.Conv2d(1, few, 3, stride=2, padding=1, device="meta"), 9, generator),
        act(),
        _drawn(nn.Conv2d(few, many, 3, stride=2, padding=1, device="meta"), 9 * few, generator),
        act(),
        nn.Flatten(),
        _mlp((many * height * width, *hidden, code_size), act, generator),
    )


def _conv_decoder(
    shape: tuple[int, int], hidden: Sequence[int], code_size: int, act: type[nn.Module], generator: Generator | None
) -> nn.Sequential:
    """Codes [B, code_size] -> flat Bernoulli logits [B, h * w]; every output pixel sees four weights of a channel."""
    (height, width), (few, many) = _quarter(shape), CHANNELS
    return nn.Sequential(
        _mlp((code_size, *reversed(hidden), many * height * width), act, generator),
        act(),
        nn.Unflatten(-1, (many, height, width)),
        _drawn(nn.ConvTranspose2d(many, few, 4, stride=2, padding=1, device="meta"), 4 * many, generator),
        act(),
        _drawn(nn.ConvTranspose2d(few, 1, 4, stride=2, padding=1, device="meta"), 4 * few, generator),
        nn.Flatten(),
    )


def _quarter(shape: tuple[int, int]) -> tuple[int, int]:
    if any(side % 4 for side in shape):
        raise ValueError(f"the conv network halves images twice, got {shape[0]}x{shape[1]}; use network mlp")
    return shape[0] // 4, shape[1] // 4


def _drawn(layer: Layer, fan_in: int, generator: Generator | None) -> Layer:
    """A layer made on the meta device with torch's usual initial law, drawn from `generator`, not the global state."""
    layer = layer.to_empty(device="cpu")
    bound = 1 / math.sqrt(fan_in)
    with torch.no_grad():
        for parameter in layer.parameters():  # weight, then bias
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
