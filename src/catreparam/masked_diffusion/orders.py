"""Which masked positions are revealed first: orders give every position a score, the highest goes first."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from catreparam.categorical import draw_gumbel_like
from catreparam.validation import check_choice, check_count, check_number

ORDERS = ("ancestral", "random", "confidence", "halton")

# (log-probability of the drawn token [B, L], progress in [0, 1], generator) -> scores [B, L]
Order = Callable[[Tensor, float, Generator | None], Tensor]


def halton_order(height: int, width: int) -> Int[Tensor, " L"]:
    """All positions of a grid (row * width + column) in the order in which a Halton sequence first visits them.

    Rows follow base 2, columns base 3: early positions are far apart, so that their tokens are nearly independent.

    >>> halton_order(2, 3).tolist()
    [4, 2, 3, 1, 5, 0]

    Reference: Besnier et al. 2025 (Halton-MaskGIT), https://arxiv.org/abs/2503.17076.
    """
    check_count("height", height)
    check_count("width", width)
    order: dict[int, None] = {}
    index = 0
    while len(order) < height * width:
        index += 1
        (n2, d2), (n3, d3) = _radical_inverse(index, 2), _radical_inverse(index, 3)
        order.setdefault((n2 * height // d2) * width + n3 * width // d3)  # whole numbers: no rounding
    return torch.tensor(list(order))


def confidence_order(noise: float = 0.0) -> Order:
    """MaskGIT's order: most probable drawn token first, with Gumbel noise of size `noise` * (1 - progress).

    Reference: Chang et al. 2022, https://arxiv.org/abs/2202.04200.
    """
    size = check_number("noise", noise, least=0.0)

    def score(log_prob: Tensor, progress: float, generator: Generator | None) -> Tensor:
        jitter = size * (1 - progress)
        return log_prob + jitter * draw_gumbel_like(log_prob, generator) if jitter else log_prob

    return score


def make_order(order: str | Tensor | Order, length: int) -> Order | None:
    """The scoring function of an order: a name, positions [L] (first to last), or a function. None: ancestral."""
    if isinstance(order, str):
        check_choice("order", order, ORDERS)
        if order == "ancestral":
            return None
        if order == "random":
            return lambda log_prob, progress, generator: torch.empty_like(log_prob).uniform_(generator=generator)
        if order == "confidence":
            return confidence_order()
        side = math.isqrt(length)
        if side * side != length:
            raise ValueError(
                f"order='halton' needs a square grid, got {length} positions; pass order=halton_order(height, width)"
            )
        order = halton_order(side, side)
    if isinstance(order, Tensor):
        if order.shape != (length,) or not torch.equal(order.sort().values.cpu(), torch.arange(length)):
            raise ValueError(f"an order must list each of the {length} positions once, got shape {tuple(order.shape)}")
        rank = torch.empty(length).scatter(0, order.cpu(), torch.arange(length).float())
        return lambda log_prob, progress, generator: (-rank).to(log_prob).expand_as(log_prob)
    if not callable(order):
        raise TypeError(f"order must be a name, positions [L] or a function, got {order!r}")
    return order


def reveal(
    score: Float[Tensor, "B L"], candidates: Bool[Tensor, "B L"], count: Int[Tensor, " B"]
) -> Bool[Tensor, "B L"]:
    """The `count` candidates of the highest score, per sequence."""
    ranked = score.float().masked_fill(~candidates, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(score.shape[-1], device=score.device).expand_as(ranked)
    rank = torch.empty_like(ranked).scatter(-1, ranked, places)
    return candidates & (rank < count.unsqueeze(-1))


def _radical_inverse(index: int, base: int) -> tuple[int, int]:
    """The digits of index mirrored behind the point, as a fraction (numerator, denominator)."""
    numerator, denominator = 0, 1
    while index:
        index, digit = divmod(index, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator, denominator
