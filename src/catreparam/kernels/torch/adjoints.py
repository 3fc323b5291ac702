"""The estimators' values and hand-derived gradients in any layout: fast twins of the surrogates in `estimators`.

The chain and its adjoint run the table of `plan`. An object stands for a few rows; kept until backward it does not
evaluate again.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from catreparam.kernels.methods import Rule
from catreparam.kernels.plan import Evaluation, plan_of
from catreparam.kernels.settings import Setting
from catreparam.kernels.torch.layouts import Layout, Pairs

Noise = Callable[[], Tensor]  # packed on demand


class Direct:
    """No steps, no noise: straight-through (weight 0), ReinMax (weight 1, or at a temperature), what lies between."""

    def __init__(self, layout: Layout, setting: Setting, logits: Tensor, noise: Noise, drawn: bool) -> None:
        self.layout, self.setting, self.logits = layout, setting, logits
        self.probs = layout.softmax(logits)

    def law(self) -> Tensor:
        """What the hard sample is drawn from, as the layout takes it."""
        return self.layout.law(self.probs, lambda: self.logits)

    def value(self, x: Tensor | None) -> Tensor:
        """The relaxed sample, packed."""
        return self.probs

    def gradient(self, upstream: Tensor, x: Tensor | None) -> Tensor:
        """With respect to the logits, packed, given the hard sample x where the method needs it."""
        layout, setting = self.layout, self.setting
        if setting.weight == 0.0 or x is None:
            return layout.covariance(self.probs, upstream)
        if setting.temperature == 1.0:
            return layout.second_order(self.probs, upstream, x, setting.weight)
        middle = layout.softmax(layout.from_top(self.logits) / setting.temperature).add_(x).div_(2)
        return layout.covariance(middle, upstream).mul_(2).sub_(layout.covariance(self.probs, upstream), alpha=0.5)


class Chain:
    """dz/dlambda = softmax(logits + lambda z): ReDGE, and with a weight ReinDGE."""

    def __init__(self, layout: Layout, setting: Setting, logits: Tensor, noise: Noise, drawn: bool) -> None:
        self.layout, self.weight = layout, setting.weight
        self.plan = plan_of(setting.lambdas, setting.solver).evaluations
        self.bounded = drawn and is_bounded(setting) and layout.exponentiates(logits)
        self.scaled = layout.scaled(logits, self.bounded)
        self.probs, self.z = _run(layout, self.plan, self.evaluate, noise())

    def evaluate(self, z: Tensor, lam: float) -> Tensor:
        return self.layout.evaluate(self.scaled, z, lam, self.bounded)

    def law(self) -> Tensor:
        return self.layout.law(self.probs[-1], lambda: torch.add(self.scaled, self.z, alpha=self.plan[-1].lam))

    def value(self, x: Tensor | None) -> Tensor:
        return self.probs[-1]

    def gradient(self, upstream: Tensor, x: Tensor | None) -> Tensor:
        layout, last = self.layout, self.probs[-1]
        path = layout.covariance(last, upstream)
        total = layout.second_order(last, upstream, x, self.weight) if self.weight and x is not None else path
        at_z = path * (layout.gain * self.plan[-1].lam)

        def take(j: int, change: Tensor, scale: float) -> None:
            total.add_(change, alpha=scale)
            if self.plan[j].lam:
                at_z.add_(change, alpha=scale * layout.gain * self.plan[j].lam)

        _pull_back(layout, self.plan, self.probs, at_z, take)
        return total


class MatchedChain:
    """Covariance-matched: z = p + w, w(0) = sqrt(v) noise; softmax(logits + (lambda w - lambda^2 / 2) / v)."""

    def __init__(self, layout: Layout, setting: Setting, logits: Tensor, noise: Noise, drawn: bool) -> None:
        self.layout, self.logits, self.noise = layout, logits, noise()
        self.plan = plan_of(setting.lambdas, setting.solver).evaluations
        self.mean = layout.softmax(logits)
        self.spread = torch.addcmul(self.mean, self.mean, self.mean, value=-1)  # p (1 - p)
        self.variance = self.spread.clamp_min(0.1)
        self.tilts: list[Tensor] = []
        self.probs, _ = _run(layout, self.plan, self.evaluate, self.variance.sqrt().mul_(self.noise))

    def evaluate(self, w: Tensor, lam: float) -> Tensor:
        # For pairs the term that both classes share drops out of the difference.
        self.tilts.append(w * lam if isinstance(self.layout, Pairs) else (w * lam).sub_(lam**2 / 2))
        return self.layout.softmax(self.exponent())

    def exponent(self) -> Tensor:
        return torch.addcdiv(self.logits, self.tilts[-1], self.variance)

    def law(self) -> Tensor:
        return self.layout.law(self.probs[-1], self.exponent)

    def value(self, x: Tensor | None) -> Tensor:
        return self.probs[-1]

    def gradient(self, upstream: Tensor, x: Tensor | None) -> Tensor:
        layout = self.layout
        total = layout.covariance(self.probs[-1], upstream)
        at_w = (total / self.variance).mul_(layout.gain * self.plan[-1].lam)
        at_inverse = self.tilts[-1] * total  # cotangent of 1 / v, for pairs of the one that both classes share

        def take(j: int, change: Tensor, scale: float) -> None:
            total.add_(change, alpha=scale)
            at_w.addcdiv_(change, self.variance, value=scale * layout.gain * self.plan[j].lam)
            at_inverse.addcmul_(self.tilts[j], change, value=scale)

        _pull_back(layout, self.plan, self.probs, at_w, take)
        at_variance = (self.noise * at_w).div_(self.variance.sqrt()).mul_(0.5 / layout.gain)
        at_variance.sub_(at_inverse.div_(self.variance.square()))
        slope = (1 - 2 * self.mean).mul_(at_variance).masked_fill_(self.spread < 0.1, 0.0)
        return total.add_(layout.covariance(self.mean, slope))


class Sweep:
    """Exact law: the hard sample first, then z = lambda_1 x + noise, swept back to lambda_0 with the adjoint."""

    def __init__(self, layout: Layout, setting: Setting, logits: Tensor, noise: Noise, drawn: bool) -> None:
        self.layout, self.setting, self.noise = layout, setting, noise
        self.averaged = setting.num_noises > 1
        self.bounded = drawn and is_bounded(setting) and layout.exponentiates(logits)
        self.scaled = layout.scaled(logits, self.bounded)
        self.mean = None

    def denoise(self, z: Tensor, lam: float) -> Tensor:
        if lam == 0.0:
            return self.layout.repeat(self.prior()) if self.averaged else self.prior()
        scaled = self.layout.repeat(self.scaled) if self.averaged else self.scaled
        return self.layout.evaluate(scaled, z, lam, self.bounded)

    def law(self) -> Tensor:
        return self.layout.law(self.prior(), lambda: self.scaled)

    def prior(self) -> Tensor:
        if self.mean is None:
            self.mean = self.layout.evaluate(self.scaled, self.scaled, 0.0, self.bounded)
        return self.mean

    def value(self, x: Tensor | None) -> Tensor:
        assert x is not None
        z = self.end(x)
        probs = self.denoise(z, self.setting.lambdas[-1])
        if not self.averaged:
            return probs
        return self.average(probs.expand_as(z))

    def gradient(self, upstream: Tensor, x: Tensor | None) -> Tensor:
        assert x is not None
        layout, grid = self.layout, self.setting.lambdas
        z = self.end(x)
        if self.averaged:
            x, upstream = layout.repeat(x), layout.repeat(upstream)
        upper = self.denoise(z, grid[-1])
        weight = self.setting.weight
        total = layout.second_order(upper, upstream, x, weight) if weight else layout.covariance(upper, upstream)
        if total.shape != z.shape:  # at lambda_1 = 0 the noises do not matter
            total = total.expand_as(z).clone()
        at_z = total * (layout.gain * grid[-1])
        for start, end in zip(grid[-2::-1], grid[:0:-1], strict=True):
            half = (end - start) / 2
            carried = half * layout.gain
            lower = self.denoise(layout.move(z, upper, -2 * half), start)
            if start:
                z = layout.move(layout.move(z, upper, -half), lower, -half)
                lower = self.denoise(z, start)
            first = layout.covariance(upper, at_z)
            second = layout.covariance(lower, torch.add(at_z, first, alpha=2 * carried * end))
            total.add_(first, alpha=half).add_(second, alpha=half)
            if start:
                at_z.add_(first, alpha=carried * end).add_(second, alpha=carried * start)
            upper = lower
        return self.average(total) if self.averaged else total

    def end(self, x: Tensor) -> Tensor:
        """z at lambda_1."""
        return self.layout.at_sample(
            self.noise(), self.layout.repeat(x) if self.averaged else x, self.setting.lambdas[-1]
        )

    def average(self, packed: Tensor) -> Tensor:
        return packed.sum(self.layout.noise_axis).div_(self.setting.num_noises)


Adjoint = Direct | Chain | MatchedChain | Sweep
ADJOINTS: dict[Rule, Callable[..., Adjoint]] = {
    Rule.DIRECT: Direct,
    Rule.CHAIN: Chain,
    Rule.MATCHED: MatchedChain,
    Rule.SWEEP: Sweep,
}


def is_bounded(setting: Setting) -> bool:
    """Whether lambda z, for noise that torch drew, stays where powers of float32 neither overflow nor vanish."""
    return setting.lambdas[-1] <= 4.0  # |z| <= 7 + 2 lambda, exp(60) is finite


def _run(
    layout: Layout, plan: tuple[Evaluation, ...], evaluate: Callable[[Tensor, float], Tensor], z: Tensor
) -> tuple[list[Tensor], Tensor]:
    """All softmaxes, and z at the last of them."""
    probs: list[Tensor] = []
    for at in plan:
        if at.to_z1:
            z = layout.move(z, probs[-1], at.to_z1)
        if at.to_z2:
            z = layout.move(z, probs[-2], at.to_z2)
        probs.append(evaluate(layout.move(z, probs[-1], at.peek) if at.peek else z, at.lam))
    return probs, z


def _pull_back(
    layout: Layout,
    plan: tuple[Evaluation, ...],
    probs: list[Tensor],
    at_z: Tensor,
    take: Callable[[int, Tensor, float], None],
) -> None:
    """Carries the cotangent of z from the last evaluation to the first; `take` gets each J(p_j) u and its factor."""
    kept = at_z  # of no use to the first
    for j in range(len(plan) - 2, -1, -1):
        at = plan[j]
        keeps = j > 0 and (at.keep_z or at.keep_step)
        before = at_z.clone() if keeps else at_z
        if at.from_kept:
            both = (kept * at.from_kept).add_(at_z, alpha=at.from_z)
            take(j, layout.covariance(probs[j], both), 1.0)
        else:
            take(j, layout.covariance(probs[j], at_z), at.from_z)
        if keeps:
            kept = before if at.keep_z else at_z - before
