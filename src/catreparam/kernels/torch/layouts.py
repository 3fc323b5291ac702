"""How rows lie in memory: torch reduces few classes slowly along the last axis, fast along the first.

Both layouts offer the same operations. Probabilities, noises, states and gradients are all "packed" the same way.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from catreparam.categorical import draw_exponential_like
from catreparam.threads import SERIAL

WIDEST_COLUMNS = 10  # classes: up to here transposing costs less than it saves
TWO_LEVELS = 512  # classes: above, a hard draw finds a block of classes first and then the class in it
LOG2_E = math.log2(math.e)  # exp2 is vectorised in torch, exp and softmax wake all threads for any size


@dataclass(frozen=True)
class Pairs:
    """Two classes: a vector (u_0, u_1) is its difference u_1 - u_0, a law is P(class 1). Shapes [(noises,) rows].

    Noise, states, gradients with respect to the sample and -inf logits all act through their difference alone. A
    gradient with respect to logits sums to zero: it stands as its entry for class 1, half its difference.
    """

    noise_axis = 0
    gain = 2.0  # makes a vector out of a gradient

    def exponentiates(self, logits: Tensor) -> bool:
        """Whether `evaluate` has another form for bounded z."""
        return False

    def pack(self, vectors: Tensor) -> Tensor:
        """[rows, 2] to differences [rows]."""
        first, second = vectors.unbind(-1)
        return second - first

    def pack_noise(self, noise: Tensor, averaged: bool) -> Tensor:
        """Noise by class [(noises,) rows, 2], or as `draw_noise` made it."""
        return self.pack(noise) if noise.ndim == 2 + averaged else noise

    def pack_sample(self, x: Tensor) -> Tensor:
        """One-hot rows [rows, 2] to the indicator of class 1."""
        return x[..., 1]

    def unpack(self, probs: Tensor, out: Tensor) -> None:
        """Probabilities of class 1 into rows [rows, 2]."""
        _interleave(1 - probs, probs, out)

    def unpack_gradient(self, gradient: Tensor) -> Tensor:
        """Gradients to vectors [rows, 2] that sum to zero."""
        return _interleave(-gradient, gradient, gradient.new_empty(len(gradient), 2))

    def repeat(self, packed: Tensor) -> Tensor:
        """With room for an axis of noises."""
        return packed

    def scaled(self, logits: Tensor, bounded: bool) -> Tensor:
        """Logits as `evaluate` takes them."""
        return logits

    def evaluate(self, scaled: Tensor, z: Tensor, lam: float, bounded: bool) -> Tensor:
        """softmax(logits + lam * z). `bounded`: z is known to be small."""
        return torch.add(scaled, z, alpha=lam).sigmoid_() if lam else torch.sigmoid(scaled)

    def softmax(self, t: Tensor) -> Tensor:
        return torch.sigmoid(t)

    def from_top(self, t: Tensor) -> Tensor:
        """Exponents of which none is above 0, for division by any temperature."""
        return t

    def move(self, z: Tensor, probs: Tensor, step: float) -> Tensor:
        """z + step * probs."""
        return torch.add(z, probs, alpha=2 * step).sub_(step)

    def at_sample(self, noise: Tensor, x: Tensor, lam: float) -> Tensor:
        """lam * x + noise."""
        return torch.add(noise, x, alpha=2 * lam).sub_(lam)

    def covariance(self, probs: Tensor, u: Tensor) -> Tensor:
        """J(p) u, a gradient."""
        return torch.ops.aten.sigmoid_backward.default(u, probs)

    def second_order(self, probs: Tensor, u: Tensor, x: Tensor, weight: float) -> Tensor:
        """(1 - w/2) J(p) u + (w/2) (x - p) <x - p, u>, a gradient."""
        population = torch.addcmul(probs, probs, probs, value=-1).mul_(1 - weight / 2)
        away = x - probs
        return torch.addcmul(population, away, away, value=weight / 2).mul(u)

    def law(self, probs: Tensor, exponent: Callable[[], Tensor]) -> Tensor:
        """What `draw` takes: the exponent, which knows the rarer class to full precision whichever it is."""
        return exponent()

    def draw(self, law: Tensor, ticket: Tensor, out: Tensor) -> None:
        """One-hot rows into `out` [rows, 2]; a class of probability zero never wins."""
        rarer = ticket < torch.sigmoid(-law.abs())
        second = (rarer ^ (law > 0)).to(law.dtype)
        _interleave(1 - second, second, out)

    def draw_noise(self, rows: Tensor, count: int | None, generator: Generator | None) -> Tensor:
        """Differences of standard normals, of variance 2: [(count,) *batch]."""
        shape = rows.shape[:-1] if count is None else (count, *rows.shape[:-1])
        return normal_like(rows, shape, generator, math.sqrt(2))

    def by_class(self, noise: Tensor, rows: Tensor, averaged: bool) -> Tensor:
        """Noise [(noises,) *batch, 2] that acts as `noise` does."""
        if noise.ndim == rows.ndim + averaged:
            return noise
        return torch.stack((torch.zeros_like(noise), noise), -1)


@dataclass(frozen=True)
class Table:
    """[num_classes, (noises,) rows] with axis 0, or [(noises,) rows, num_classes] with axis -1."""

    axis: int
    gain = 1.0  # vectors and gradients stand alike

    @property
    def noise_axis(self) -> int:
        return 0 if self.axis else 1

    def exponentiates(self, logits: Tensor) -> bool:
        """Whether bounded z go by powers and a sum: more operations than a softmax, fewer nanoseconds a number."""
        return self.axis == 0 or logits.numel() > SERIAL

    def pack(self, vectors: Tensor) -> Tensor:
        """[(noises,) rows, num_classes] to the layout; views that are dense along the rows stay views."""
        if self.axis:
            return vectors
        return _dense(vectors.movedim(-1, 0))

    def pack_noise(self, noise: Tensor, averaged: bool) -> Tensor:
        return self.pack(noise)

    def pack_sample(self, x: Tensor) -> Tensor:
        return self.pack(x)

    def unpack(self, probs: Tensor, out: Tensor) -> None:
        out.copy_(probs if self.axis else probs.t())

    def unpack_gradient(self, gradient: Tensor) -> Tensor:
        """[rows, num_classes]."""
        return gradient if self.axis else _dense(gradient.t())

    def repeat(self, packed: Tensor) -> Tensor:
        return packed if self.axis else packed.unsqueeze(1)

    def scaled(self, logits: Tensor, bounded: bool) -> Tensor:
        """For bounded z: in base 2, a row's largest at 0, so that powers can neither overflow nor all vanish."""
        return self.from_top(logits).mul_(LOG2_E) if bounded else logits

    def evaluate(self, scaled: Tensor, z: Tensor, lam: float, bounded: bool) -> Tensor:
        if not bounded:
            return self.softmax(torch.add(scaled, z, alpha=lam) if lam else scaled)
        weights = torch.add(scaled, z, alpha=lam * LOG2_E).exp2_() if lam else torch.exp2(scaled)
        return weights.div_(weights.sum(self.axis, keepdim=True))

    def softmax(self, t: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not self.exponentiates(t):
            return torch.softmax(t, self.axis)
        weights = self.from_top(t).mul_(LOG2_E).exp2_()
        return weights.div_(weights.sum(self.axis, keepdim=True))

    def from_top(self, t: Tensor) -> Tensor:
        return t - t.amax(self.axis, keepdim=True)

    def move(self, z: Tensor, probs: Tensor, step: float) -> Tensor:
        return torch.add(z, probs, alpha=step)

    def at_sample(self, noise: Tensor, x: Tensor, lam: float) -> Tensor:
        return torch.add(noise, x, alpha=lam)

    def covariance(self, probs: Tensor, u: Tensor) -> Tensor:
        if probs.shape == u.shape:
            return torch._softmax_backward_data(u, probs, self.axis, probs.dtype)  # type: ignore[attr-defined]
        product = probs * u
        return product.addcmul_(probs, product.sum(self.axis, keepdim=True), value=-1)

    def second_order(self, probs: Tensor, u: Tensor, x: Tensor, weight: float) -> Tensor:
        away = x - probs
        one_sample = (away * u).sum(self.axis, keepdim=True)
        return torch.addcmul(self.covariance(probs, u).mul_(1 - weight / 2), away, one_sample, value=weight / 2)

    def law(self, probs: Tensor, exponent: Callable[[], Tensor]) -> Tensor:
        return probs

    def draw(self, law: Tensor, ticket: Tensor, out: Tensor) -> None:
        """One-hot rows into `out` [rows, num_classes] for a ticket: uniforms [rows], or clocks [rows, num_classes].

        The class is the first whose cumulated probability exceeds ticket * total: its own probability is not zero.
        In float64: float32 sums would blur the classes of 1e-6 and less.
        """
        num_classes = law.shape[self.axis]
        if ticket.ndim == 2:
            index = (law / self.pack(ticket)).argmax(self.axis).unsqueeze(-1)
        elif not self.axis:
            cumulated = law.cumsum(0, dtype=torch.float64)
            below = torch.le(cumulated, ticket * cumulated[num_classes - 1], out=torch.empty_like(cumulated))
            index = below.sum(0).long().unsqueeze(-1)
        elif num_classes > TWO_LEVELS:
            index = draw_by_blocks(law, ticket)
        else:
            cumulated = law.cumsum(-1, dtype=torch.float64)
            wanted = ticket.unsqueeze(1) * cumulated.narrow(1, num_classes - 1, 1)
            index = torch.searchsorted(cumulated, wanted, right=True)
        out.zero_().scatter_(1, index.clamp_(max=num_classes - 1), 1.0)  # clamped: NaN rows, unchecked

    def draw_noise(self, rows: Tensor, count: int | None, generator: Generator | None) -> Tensor:
        """Standard normals [(count,) *batch, num_classes]; in memory as `pack` wants them."""
        shape = rows.shape if count is None else (count, *rows.shape)
        if self.axis:
            return normal_like(rows, shape, generator)
        return normal_like(rows, (shape[-1], *shape[:-1]), generator).movedim(0, -1)

    def by_class(self, noise: Tensor, rows: Tensor, averaged: bool) -> Tensor:
        return noise


Layout = Pairs | Table


@functools.lru_cache(maxsize=1024)
def choose_layout(num_classes: int) -> Layout:
    """Two classes: pairs. Few: transposed [num_classes, rows]. Many: [rows, num_classes], as they come."""
    if num_classes == 2:
        return Pairs()
    return Table(0 if num_classes <= WIDEST_COLUMNS else -1)


def draw_ticket(rows: Tensor, generator: Generator | None) -> Tensor:
    """What `draw` needs: a uniform number in [0, 1) a row; away from the CPU, whose scans add in order, clocks."""
    if not rows.is_cpu and rows.shape[-1] != 2:
        return draw_exponential_like(rows, generator)
    return rows.new_empty(rows.shape[:-1], dtype=torch.float64).uniform_(generator=generator)


def _dense(view: Tensor) -> Tensor:
    """`view`, copied unless its last axis is dense. Adding zeros takes half as long as a plain transposing copy."""
    if view.stride(-1) == 1 or not view.is_cpu or torch.compiler.is_compiling():
        return view if view.stride(-1) == 1 else view.contiguous()
    out = view.new_empty(view.shape)
    return torch.add(view, view.new_zeros(view.shape[-1]), out=out)


def _interleave(first: Tensor, second: Tensor, out: Tensor) -> Tensor:
    """Into `out` [rows, 2]. Through complex numbers: torch.stack takes four times as long for columns this thin."""
    if torch.compiler.is_compiling():
        return out.copy_(torch.stack((first, second), -1))
    torch.complex(first, second, out=torch.view_as_complex(out))
    return out


def normal_like(like: Tensor, shape: tuple[int, ...], generator: Generator | None, scale: float = 1.0) -> Tensor:
    """Normals of standard deviation `scale`, in the dtype and on the device of `like`."""
    # torch.randn takes no generator and symbolic sizes.
    return like.new_empty(shape).normal_(0.0, scale, generator=generator)


def draw_by_blocks(probs: Tensor, ticket: Tensor) -> Tensor:
    """The class [rows, 1] at `ticket` [rows] in [0, 1) of the distribution function of probs [rows, num_classes].

    Block first, then the class in it, both in float64. A class of probability zero is never drawn.
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
    """The first entry whose cumulated weight exceeds ticket * total, and how far into its weight, in [0, 1)."""
    cumulated = weights.double().cumsum(1)
    wanted = ticket * cumulated[:, -1:]
    index = (cumulated <= wanted).sum(1, keepdim=True).clamp_(max=weights.shape[1] - 1)
    upper = cumulated.gather(1, index)
    before = (index > 0) * cumulated.gather(1, (index - 1).clamp_(min=0))
    return index, ((wanted - before) / (upper - before)).clamp_(0.0, 1 - 2**-53)
