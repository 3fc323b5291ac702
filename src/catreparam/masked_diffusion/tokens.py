"""Tokens drawn from logits."""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from catreparam.categorical import draw_exponential_like


def draw_tokens(
    logits: Float[Tensor, "*batch V"], generator: Generator | None = None
) -> tuple[Int[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Tokens drawn from softmax(logits) at every position, and their log-probabilities (float32)."""
    log_probs = torch.log_softmax(logits.float(), -1)
    clocks = draw_exponential_like(log_probs, generator)
    tokens = (log_probs - clocks.log()).argmax(-1)  # the first to ring
    return tokens, log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
