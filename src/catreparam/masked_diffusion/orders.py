"""Which masked positions are revealed first: orders give every position a score, the highest goes first."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from catreparam.categorical import draw_gumbel_like, entropy, wide
from catreparam.validation import check_choice, check_count, check_number


@dataclass(frozen=True)
class Proposal:
    """What an order may look at in a round.

    Fields:
        tokens: [B, L], proposed for every position.
        log_prob: [B, L], of these tokens, as they were drawn: at the temperature, guided where there is guidance.
        progress: in [0, 1], the part of the rounds that is done after this one; of the block's rounds, with blocks.
        logits: [B, L, V], that they were drawn from; None where the method keeps none (`smc`).
        prior: [B, L, V], the model's own logits at the temperature, without guidance; None likewise.
        temperature: what the model's logits were divided by.
        generator: for orders that draw.
    """

    tokens: Tensor
    log_prob: Tensor
    progress: float
    logits: Tensor | None = None
    prior: Tensor | None = None
    temperature: float = 1.0
    generator: Generator | None = None

    @property
    def entropy(self) -> Float[Tensor, "B L"]:
        """In nats, of what was drawn from."""
        return entropy(self.kept("logits"))

    @property
    def margin(self) -> Float[Tensor, "B L"]:
        """The largest probability less the second, of what was drawn from."""
        logits = self.kept("logits")
        top = torch.softmax(logits, -1).topk(min(2, logits.shape[-1]), -1).values
        return top[..., 0] - top[..., 1:].sum(-1)

    @property
    def model_log_prob(self) -> Float[Tensor, "B L"]:
        """Log-probability of the proposed tokens under the model's own logits: confidence without temperature."""
        log_probs = torch.log_softmax(self.kept("prior") * self.temperature, -1)
        return log_probs.gather(-1, self.tokens.unsqueeze(-1)).squeeze(-1)

    def kept(self, name: str) -> Tensor:
        """The logits of that name. Raises ValueError where there are none."""
        logits = getattr(self, name)
        if logits is None:
            raise ValueError(
                f"this order looks at {name}, which this method does not keep; use sample, guided_sample or svdd, or "
                "an order that looks at log_prob"
            )
        return wide(logits)


# Scores [B, L] of a proposal; or the older form (log_prob [B, L], progress in [0, 1], generator) -> scores.
Order = Callable[[Proposal], Tensor] | Callable[[Tensor, float, Generator | None], Tensor]
Score = Callable[[Proposal], Tensor]

NAMED: dict[str, Score | None] = {
    "ancestral": None,
    "random": lambda proposal: torch.empty_like(proposal.log_prob).uniform_(generator=proposal.generator),
    "confidence": lambda proposal: proposal.log_prob,
    "model_confidence": lambda proposal: proposal.model_log_prob,
    "entropy": lambda proposal: -proposal.entropy,
    "margin": lambda proposal: proposal.margin,
    "left_to_right": lambda proposal: (
        -torch.arange(proposal.log_prob.shape[-1]).to(proposal.log_prob).expand_as(proposal.log_prob)
    ),
}
ORDERS = (*NAMED, "halton")


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


def confidence_order(noise: float = 0.0) -> Callable[[Tensor, float, Generator | None], Tensor]:
    """MaskGIT's order: most probable drawn token first, with Gumbel noise of size `noise` * (1 - progress).

    Reference: Chang et al. 2022, https://arxiv.org/abs/2202.04200.
    """
    size = check_number("noise", noise, least=0.0)

    def score(log_prob: Tensor, progress: float, generator: Generator | None) -> Tensor:
        jitter = size * (1 - progress)
        return log_prob + jitter * draw_gumbel_like(log_prob, generator) if jitter else log_prob

    return score


def make_order(order: str | Tensor | Order, length: int) -> Score | None:
    """The scoring function of an order: a name, positions [L] (first to last), or a function. None: ancestral."""
    if isinstance(order, str):
        if check_choice("order", order, ORDERS) in NAMED:
            return NAMED[order]
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
        return lambda proposal: (-rank).to(proposal.log_prob).expand_as(proposal.log_prob)
    if not callable(order):
        raise TypeError(f"order must be a name, positions [L] or a function, got {order!r}")
    function: Callable[..., Tensor] = order
    return (
        function
        if _takes_one(function)
        else lambda proposal: function(proposal.log_prob, proposal.progress, proposal.generator)
    )


def _takes_one(function: Any) -> bool:
    """Whether a function is called with one argument: the others have defaults."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        pass
    return True


def reveal(
    score: Float[Tensor, "B L"], candidates: Bool[Tensor, "B L"], count: Int[Tensor, " B"]
) -> Bool[Tensor, "B L"]:
    """The `count` candidates of the highest score, per sequence; those scored -inf come last."""
    least = torch.finfo(torch.float32).min
    ranked = (
        score.float()
        .clamp_min(least)
        .masked_fill(~candidates, -torch.inf)
        .argsort(dim=-1, descending=True, stable=True)
    )
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
