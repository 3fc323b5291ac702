"""KL divergences in closed form, registered with torch.distributions.kl_divergence; importing this module does it."""

import torch
from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical
from torch.distributions.kl import register_kl

from catreparam.categorical import finite
from catreparam.distributions.bernoulli import ReparameterizedBernoulli
from catreparam.distributions.categorical import ReparameterizedCategorical

AnyCategorical = ReparameterizedCategorical | OneHotCategorical
AnyBernoulli = ReparameterizedBernoulli | Bernoulli


@register_kl(ReparameterizedCategorical, ReparameterizedCategorical)
@register_kl(ReparameterizedCategorical, OneHotCategorical)
@register_kl(OneHotCategorical, ReparameterizedCategorical)
def _kl_categorical(p: AnyCategorical, q: AnyCategorical) -> Tensor:
    """KL(p || q) in nats [*batch]; +inf where q forbids what p allows."""
    if p.event_shape != q.event_shape:
        raise ValueError(f"both must have the same classes, got {p.event_shape[0]} and {q.event_shape[0]}")
    return _kl(_class_logits(p), _class_logits(q))


@register_kl(ReparameterizedBernoulli, ReparameterizedBernoulli)
@register_kl(ReparameterizedBernoulli, Bernoulli)
@register_kl(Bernoulli, ReparameterizedBernoulli)
def _kl_bernoulli(p: AnyBernoulli, q: AnyBernoulli) -> Tensor:
    """KL(p || q) in nats [*batch]; +inf where q forbids what p allows."""
    return _kl(_class_logits(p), _class_logits(q))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    wide = torch.promote_types(torch.promote_types(p.dtype, q.dtype), torch.float32)
    p, q = torch.broadcast_tensors(p.to(wide), q.to(wide))
    q = torch.log_softmax(q, -1).masked_fill(p == -torch.inf, -1.0)  # of no account there, and 0 * inf has no gradient
    return (torch.softmax(p, -1) * (finite(torch.log_softmax(p, -1)) - q)).sum(-1)


def _class_logits(law: AnyCategorical | AnyBernoulli) -> Tensor:
    if isinstance(law, ReparameterizedBernoulli):
        return law.two_classes.logits
    if isinstance(law, Bernoulli):
        return torch.stack((torch.zeros_like(law.logits), law.logits), -1)
    return law.logits
