"""Cheap random numbers: normals in any shape, and one uniform number a row for a hard draw among many classes."""

import math

import torch
from torch import Generator, Tensor


def normal_like(like: Tensor, shape: tuple[int, ...], generator: Generator | None, scale: float = 1.0) -> Tensor:
    """Normals of standard deviation `scale`, in the dtype and on the device of `like`."""
    return like.new_empty(shape).normal_(
        0.0, scale, generator=generator
    )  # torch.randn takes no generator and symbolic sizes


def draw_by_blocks(probs: Tensor, ticket: Tensor) -> Tensor:
    """The class [rows, 1] at `ticket` [rows] in [0, 1) of the distribution function of probs [rows, num_classes].

    Block first, then the class in it, both in float64: float32 sums would blur the classes of 1e-6 and less. A class of
    probability zero is never drawn.
    """
    num_classes = probs.shape[1]
    width = 1 << (math.isqrt(num_classes) - 1).bit_length()
    whole = num_classes // width
    sums = probs[:, : whole * width].unflatten(1, (whole, width)).sum(-1)  # [rows, whole]
    if whole * width < num_classes:
        sums = torch.cat((sums, probs[:, whole * width :].sum(-1, keepdim=True)), 1)
    block, rest = _first_above(sums, ticket.unsqueeze(1))
    places = block * width + torch.arange(width, device=probs.device)  # [rows, width]
    inside = probs.gather(1, places.clamp_max(num_classes - 1)).masked_fill(places >= num_classes, 0.0)
    return block * width + _first_above(inside, rest)[0]


def _first_above(weights: Tensor, ticket: Tensor) -> tuple[Tensor, Tensor]:
    """The first entry whose cumulated weight exceeds ticket * total, and how far into its weight that lies, in [0, 1)."""
    cumulated = weights.double().cumsum(1)
    wanted = ticket * cumulated[:, -1:]
    index = (cumulated <= wanted).sum(1, keepdim=True).clamp_(max=weights.shape[1] - 1)
    upper = cumulated.gather(1, index)
    before = (index > 0) * cumulated.gather(1, (index - 1).clamp_(min=0))
    return index, ((wanted - before) / (upper - before)).clamp_(0.0, 1 - 2**-53)
