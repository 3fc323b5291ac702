"""The categorical distribution itself: rows in and out, noise, exact draws, attached gradients, entropy, KL."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.onnx import is_in_onnx_export

from catreparam.pending import waits
from catreparam.validation import (
    check_generator,
    check_logits,
    check_mask,
    check_rows,
    has_values,
    is_jit_tracing,
    is_stand_in,
)

Rows = Float[Tensor, "*batch num_classes"]
BroadcastRows = Float[Tensor, "... num_classes"]  # rows that broadcast against each other, several noises a row say
TAIL = 2.0**-14  # an exponential below is drawn anew, at its own scale
VANISHED = -1000.0  # whose exponential is 0: there 0 * inf would be the gradient to a temperature
FORBIDDEN = -1e20  # a logit this far below the largest is a mask


def to_rows(
    logits: Tensor, mask: Bool[Tensor, "..."] | None = None, dim: int = -1, generator: Generator | None = None
) -> Rows:
    """Checks the input and returns logits with classes last, in float32 or wider, forbidden classes at -inf.

    Logits that may be too large to add noise to are `centred`, which changes no law and no gradient.

    Raises TypeError or ValueError as `catreparam.validation` describes: wrong types and shapes, NaN, +inf,
    a row that allows no class, a generator on another device.
    """
    rows = wide(lay_out(logits, mask, dim, generator))
    return rows if check_rows(rows) else centred(rows)


def lay_out(
    logits: Tensor, mask: Bool[Tensor, "..."] | None = None, dim: int = -1, generator: Generator | None = None
) -> Rows:
    """`to_rows` in the dtype of the logits, whose values are not looked at."""
    check_logits(logits, dim)
    check_generator(generator, logits.device)
    rows = logits
    if mask is not None:
        check_mask(mask, logits)
        rows = rows.masked_fill(~mask, -torch.inf)
    return rows if dim in (-1, rows.ndim - 1) else rows.movedim(dim, -1)


def wide(logits: Tensor) -> Tensor:
    """The logits in float32 or wider."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def from_rows(x: Tensor, logits: Tensor, dim: int = -1) -> Tensor:
    """Undoes `to_rows`: the layout and dtype of `logits` for a tensor with classes last."""
    return x.movedim(-1, dim).to(logits.dtype)


def centred(rows: Rows) -> Rows:
    """Logits with the largest of every row at 0, and masks written as the least float at -inf, as other masks are.

    Noise added to logits of 1e30 would be lost, and products with them overflow. Rows that are not valid (NaN, +inf,
    no class allowed) become NaN, and so does their gradient.
    """
    top = rows.detach().amax(-1, keepdim=True)
    rows = torch.addcmul(-top, rows, 1 + (top - top))  # times one, or NaN unless the top is finite
    return rows.masked_fill(rows.detach() < FORBIDDEN, -torch.inf)


def from_top(rows: Rows) -> Rows:
    """Rows with the largest of every row taken off, as a constant."""
    return rows - rows.detach().amax(-1, keepdim=True)


def softmax_at(rows: Rows, temperature: float | Tensor) -> Rows:
    """softmax(rows / temperature): what is divided is at most 0, so that no temperature is too low."""
    rows = from_top(rows)
    if not isinstance(temperature, Tensor):
        return torch.softmax(rows / temperature, -1)
    gone = (rows / temperature).detach() < VANISHED
    return torch.softmax((rows.masked_fill(gone, 0.0) / temperature).masked_fill(gone, -torch.inf), -1)


def attach_gradient(x: Rows, surrogate: Rows) -> Rows:
    """The value of x, exactly, with the gradient of the surrogate.

    >>> p = torch.tensor([0.2, 0.8], requires_grad=True)
    >>> x = attach_gradient(torch.tensor([0.0, 1.0]), p)
    >>> x.tolist(), torch.autograd.grad(x @ torch.tensor([3.0, 5.0]), p)[0].tolist()
    ([0.0, 1.0], [3.0, 5.0])
    """
    return x.detach() + (surrogate - surrogate.detach())


def source(generator: Generator | None, like: Tensor) -> Generator | None:
    """The generator of what is drawn like a tensor: none for one without values, where torch takes none."""
    return None if generator is None or is_stand_in(like) else generator


def _for_torchscript_onnx() -> bool:
    """Whether torch.onnx.export(dynamo=False) records, which lacks some of torch's operations."""
    return is_jit_tracing() and is_in_onnx_export()


def draw_exponential_like(rows: Tensor, generator: Generator | None = None) -> Tensor:
    """Exponential(1) noise, never zero, to full relative precision near 0, where rare classes are decided."""
    noise = torch.empty_like(rows, memory_format=torch.contiguous_format).detach()
    if _for_torchscript_onnx():  # it knows uniform numbers alone; wide ones have rare classes right
        noise = -(1 - torch.rand_like(noise, dtype=torch.float64)).log().to(noise.dtype)
        return noise.clamp_min(torch.finfo(noise.dtype).tiny)
    return with_fine_tail(noise.exponential_(generator=source(generator, rows)))


def with_fine_tail(noise: Tensor) -> Tensor:
    """Exponential(1) noise, changed in place or not, whose values below TAIL are told apart further.

    Torch's are multiples of 2^-24 or 2^-31, on some devices 0 among them. What is missing comes from the last digits of
    two other numbers of the same noise, so that generators and all other values stay as they are.
    """
    if not noise.is_cpu or waits(noise.device) or not has_values(noise):
        return torch.where(noise < TAIL, _tail(noise.roll(1), noise.roll(2)), noise)
    flat = noise.view(-1)
    rare = (flat < TAIL).nonzero().squeeze(-1)
    if len(rare):
        flat[rare] = _tail(flat[(rare - 1) % len(flat)], flat[(rare - 2) % len(flat)])
    return noise


def _tail(first: Tensor, second: Tensor) -> Tensor:
    """Exponential(1) noise below TAIL: uniform there, but for the slope of exp(-noise)."""
    uniform = (first.double() * 10368889.723).frac() + (second.double() * 11863283.203).frac() * 2.0**-24
    return -torch.log1p((uniform + 2.0**-49) * math.expm1(-TAIL)).to(first.dtype)


def draw_gumbel_like(rows: Tensor, generator: Generator | None = None) -> Tensor:
    """Standard Gumbel noise, always finite."""
    return -draw_exponential_like(rows, generator).log()


def draw_normal_like(rows: Tensor, generator: Generator | None = None) -> Tensor:
    """Standard normal noise."""
    noise = torch.empty_like(rows, memory_format=torch.contiguous_format).detach()
    if _for_torchscript_onnx():
        return torch.randn_like(noise)
    return noise.normal_(generator=source(generator, rows))


def draw_antithetic_like(rows: Rows, num_noises: int, generator: Generator | None = None) -> Tensor:
    """Normal noise [num_noises, *batch, num_classes] in pairs (eps, -eps); an odd count leaves one unpaired."""
    half = draw_normal_like(rows.expand((num_noises + 1) // 2, *rows.shape), generator)
    return torch.cat([half, -half])[:num_noises] if num_noises > 1 else half


def draw_one_hot(probs: Rows, generator: Generator | None = None) -> Rows:
    """An exact one-hot draw for every row of probabilities (which need not be normalised). No gradient.

    The winner of a race of exponential clocks: argmax of p / E. A class of probability zero never wins.

    >>> draw_one_hot(torch.tensor([[0.0, 1.0, 0.0]])).tolist()
    [[0.0, 1.0, 0.0]]
    """
    probs = probs.detach()
    return one_hot_like((probs / draw_exponential_like(probs, generator)).argmax(-1), probs)


def one_hot_like(index: Tensor, rows: BroadcastRows) -> BroadcastRows:
    """One-hot rows in the shape and dtype of `rows` from class indices [*batch]."""
    classes = torch.arange(rows.shape[-1], device=rows.device)
    return (index.unsqueeze(-1) == classes).to(rows.dtype)


def spoil(x: Rows, rows: BroadcastRows) -> Rows:
    """x, changed in place: on a device where faults wait, NaN in rows that are NaN, of which something was drawn."""
    return x.masked_fill_(rows[..., :1].isnan(), torch.nan) if waits(rows.device) else x


def finite(logits: Rows) -> Rows:
    """Logits with -inf replaced by 0, for products with weights that are zero there (0 * -inf would be NaN)."""
    return logits.masked_fill(logits == -torch.inf, 0.0)


def tangent(logits: Rows) -> Rows:
    """Zero, with the gradient of the logits: for products of which only the gradient is wanted."""
    return finite(logits) - finite(logits).detach()


def covariance_product(probs: BroadcastRows, vector: BroadcastRows) -> BroadcastRows:
    """J(p) u = p * (u - <p, u>): the covariance of a one-hot draw, applied to u in O(num_classes)."""
    return probs * (vector - (probs * vector).sum(-1, keepdim=True))


def second_order(
    probs: BroadcastRows, vector: BroadcastRows, x: BroadcastRows, weight: float | Tensor = 1.0
) -> BroadcastRows:
    """(1 - w/2) J(p) u + (w/2) d <d, u> with d = x - p: between population (w = 0) and ReinMax's covariance (w = 1)."""
    d = x - probs
    one_sample = d * (d * vector).sum(-1, keepdim=True)
    return (1 - weight / 2) * covariance_product(probs, vector) + (weight / 2) * one_sample


def conditional_gumbel(log_probs: Rows, x: Rows, exponentials: Tensor) -> Tensor:
    """Gumbel-perturbed log-probabilities given that x is their argmax; differentiable in log_probs.

    The top value is -log E_x, every other -log(E_k / p_k + E_x). `exponentials` may carry leading axes.

    Reference: Maddison et al. 2014 (top-down construction); Paulus et al. 2021, https://arxiv.org/abs/2010.04838.
    """
    impossible = log_probs == -torch.inf
    log_noise = exponentials.log()
    log_top = (x * log_noise).sum(-1, keepdim=True)
    terms = log_noise - log_probs.masked_fill(impossible, 0.0), log_top
    if _for_torchscript_onnx():
        below = -torch.stack(torch.broadcast_tensors(*terms)).logsumexp(0)
    else:
        below = -torch.logaddexp(*terms)
    perturbed = torch.where(x > 0, -log_noise, below)
    return perturbed.masked_fill(impossible, -torch.inf)


def log_prob(logits: Rows, x: Rows) -> Float[Tensor, "*batch"]:
    """log P(x) of one-hot x under softmax(logits), per row."""
    return (x * finite(torch.log_softmax(logits, -1))).sum(-1)


def entropy(logits: Rows) -> Float[Tensor, "*batch"]:
    """Entropy of softmax(logits) in nats, per row; impossible classes count as zero.

    >>> round(entropy(torch.zeros(4)).item(), 4)
    1.3863
    """
    log_probs = torch.log_softmax(logits, -1)
    return -(log_probs.exp() * finite(log_probs)).sum(-1)


def kl(logits: Rows, prior_logits: Rows) -> Float[Tensor, "*batch"]:
    """KL(softmax(logits) || softmax(prior_logits)) in nats, per row; +inf where the prior forbids what logits allow.

    >>> kl(torch.zeros(3), torch.zeros(3)).item()
    0.0
    """
    log_p, log_q = torch.log_softmax(logits, -1), torch.log_softmax(prior_logits, -1)
    reference = torch.where(log_p == -torch.inf, 0.0, log_q)  # 0 * inf has no derivative, so it must not be formed
    return (log_p.exp() * (finite(log_p) - reference)).sum(-1)


def kl_to_uniform(logits: Rows) -> Float[Tensor, "*batch"]:
    """KL to the uniform distribution over the classes that are allowed, in nats, per row."""
    allowed = (logits > -torch.inf).sum(-1).to(logits.dtype)
    return allowed.log() - entropy(logits)
