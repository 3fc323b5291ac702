"""Grey pixels to what a Bernoulli decoder is asked to explain. ELBOs under different rules cannot be compared."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from catreparam.validation import check_choice

BINARISATIONS = {
    "threshold": "pixels above 0.5 are 1, the others 0 (the ReDGE paper)",
    "greyscale": "grey levels stay, as expected binary values (the ReinMax paper)",
    "dynamic": "pixels are drawn anew as Bernoulli(grey) each time a training image is used; once for evaluation",
}


def binarise(
    images: Float[Tensor, "*batch h w"], rule: str, *, generator: Generator | None = None
) -> Float[Tensor, "*batch h w"]:
    """Applies a rule of BINARISATIONS to images in [0, 1]; only `dynamic` draws. ValueError for another rule."""
    if rule == "threshold":
        return (images > 0.5).to(images.dtype)
    if rule == "greyscale":
        return images
    check_choice("binarisation", rule, BINARISATIONS)
    return torch.bernoulli(images, generator=generator)
