"""Scores of images, one number each, higher is better: what a generation of image tokens can be guided by."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catreparam.validation import check_number

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
