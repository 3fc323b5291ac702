"""A step of guidance after the reward's gradient: the gradient of the KL divergence to the prior, and Adam.

`TorchUpdate` is the twin that reads like the formula; the compiled kernels do the same in one pass.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from catreparam.categorical import finite
from catreparam.kernels import dispatch
from catreparam.kernels.compiled import update as compiled
from catreparam.kernels.compiled.update import Seen


@dataclass(frozen=True)
class Divergence:
    """KL(q || prior) and entropy of q [*batch] in nats, and the gradient of the KL in q's logits [*batch, V]."""

    kl: Tensor
    entropy: Tensor
    gradient: Tensor


def divergence(logits: Float[Tensor, "*batch V"], log_prior: Float[Tensor, "*batch V"]) -> Divergence:
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


class TorchUpdate:
    """The logits [B, M, V] of one optimisation, moved in place by Adam. `active` [B, M, 1]: where they may move."""

    def __init__(self, logits: Tensor, log_prior: Tensor, active: Tensor | None) -> None:
        self.logits, self.log_prior, self.active = logits, log_prior, active
        self.adam = torch.optim.Adam([logits])  # its learning rate is set in every step

    def add_divergence(self, gradient: Tensor, kl_weight: float) -> Seen:
        """Adds the KL's gradient, weighted, to that of the reward [B, M, V], in place; 0 where nothing may move."""
        is_finite = torch.isfinite(gradient.sum())
        apart = divergence(self.logits.detach(), self.log_prior)
        gradient.add_(apart.gradient, alpha=kl_weight)
        if self.active is not None:
            gradient.mul_(self.active)
        norm = torch.linalg.vector_norm(gradient, dim=(1, 2))
        return Seen(apart.kl.sum(-1), apart.entropy.sum(-1), norm, is_finite)

    def move(self, gradient: Tensor, lr: float, clip: Tensor | None = None) -> None:
        """Adam's step; `clip` [B]: factors of the gradient."""
        self.logits.grad = gradient if clip is None else gradient.mul_(clip.reshape(-1, 1, 1))
        self.adam.param_groups[0]["lr"] = lr
        self.adam.step()
        self.logits.grad = None  # as large as the logits

    def step(self, gradient: Tensor, kl_weight: float, lr: float) -> Seen:
        """Both: what is returned is of before the move."""
        seen = self.add_divergence(gradient, kl_weight)
        self.move(gradient, lr)
        return seen


def update_of(logits: Tensor, log_prior: Tensor, active: Tensor | None) -> "TorchUpdate | compiled.Update":
    """The faster one that takes such logits."""
    served = dispatch.allows_compiled() and compiled.serves(logits.detach(), log_prior)
    kind = compiled.Update if served else TorchUpdate
    return kind(logits, log_prior, active)
