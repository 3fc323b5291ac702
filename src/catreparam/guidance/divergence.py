"""The exact KL divergence to the prior with its gradient, in one pass; impossible tokens are legal."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from catreparam.categorical import finite


@dataclass(frozen=True)
class Divergence:
    """KL(q || prior) [B, L] and entropy of q [B, L] in nats, and the gradient of the KL in q's logits [B, L, V]."""

    kl: Tensor
    entropy: Tensor
    gradient: Tensor


def divergence(logits: Float[Tensor, "B L V"], log_prior: Float[Tensor, "B L V"]) -> Divergence:
    """Divergence of q = softmax(logits) from the prior, whose impossible tokens (-inf) must be impossible in q too.

    The gradient is q * (log q - log prior - KL), zero at impossible tokens (no 0 * inf).
    """
    log_q = log_softmax(logits)
    q = log_q.exp()
    ratio = finite(log_q)
    entropy = -(q * ratio).sum(-1)
    ratio = ratio.sub_(finite(log_prior))
    kl = (q * ratio).sum(-1)
    gradient = q.mul_(ratio.sub_(kl.unsqueeze(-1)))
    return Divergence(kl, entropy, gradient)


def log_softmax(logits: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
    """torch.log_softmax over the last axis, without gradient; few classes are laid out first: much faster on CPUs."""
    if logits.shape[-1] > 32:
        return torch.log_softmax(logits, -1)
    return torch.log_softmax(logits.movedim(-1, 0).contiguous(), 0).movedim(0, -1)
