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
    log_q = torch.log_softmax(logits, -1)
    q = log_q.exp()
    ratio = finite(log_q)
    entropy = -(q * ratio).sum(-1)
    ratio = ratio.sub_(finite(log_prior))
    kl = (q * ratio).sum(-1)
    gradient = q.mul_(ratio.sub_(kl.unsqueeze(-1)))
    return Divergence(kl, entropy, gradient)
