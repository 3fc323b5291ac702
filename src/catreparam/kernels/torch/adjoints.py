"""The estimators' values and hand-derived gradients in any layout: fast twins of the surrogates in `estimators`.

A solver is a list of stages: before evaluation j the state z moves by given multiples of earlier evaluations. Run backwards,
the same list is the adjoint. An object stands for a few rows; kept until backward it does not evaluate again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from catreparam.kernels.settings import Setting
from catreparam.kernels.torch.layouts import Layout, Pairs

Noise = Callable[[], Tensor]  # packed on demand


class Stage(NamedTuple):
    """One evaluation, at `lam`, after z moved by `step` times evaluation `source` for every pair in `moves`."""

    lam: float
    moves: tuple[tuple[int, float], ...]


@functools.lru_cache(maxsize=1024)
def stages(lambdas: tuple[float, ...], solver: str) -> tuple[Stage, ...]:
    """The evaluations of euler | ab2 | heun on a grid; the last makes the relaxed sample."""
    plan, before = [Stage(lambdas[0], ())], 0.0
    for start, end in zip(lambdas, lambdas[1:], strict=False):
        step, here = end - start, len(plan) - 1
        if solver == "heun":
            plan += [Stage(end, ((here, step),)), Stage(end, ((here, -step / 2), (here + 1, step / 2)))]
        elif solver == "ab2" and before > 0.0:
            tilt = step / before / 2
            plan.append(Stage(end, ((here, step * (1 + tilt)), (here - 1, -step * tilt))))
        else:
            plan.append(Stage(end, ((here, step),)))
        before = step
    return tuple(plan)


class Direct:
    """straight_through, reinmax, lambda_reinmax: no steps, no noise."""

    def __init__(self, layout: Layout, setting: Setting, logits: Tensor, noise: Noise, drawn: bool) -> None:
        self.layout, self.setting, self.logits = layout, setting, logits
        self.probs = layout.softmax(logits)

    def law(self) -> Tensor:
        """What the hard sample is drawn from, packed."""
        return self.probs

    def value(self, x: Tensor | None) -> Tensor:
        """The relaxed sample, packed."""
        return self.probs

    def gradient(self, upstream: Tensor, x: Tensor | None) -> Tensor:
        """With respect to the logits, packed, given the hard sample x where the method needs it."""
        layout, setting = self.layout, self.setting
        if setting.method == "straight_through" or x is None:
            return layout.covariance(self.probs, upstream)
        if setting.method == "lambda_reinmax" or setting.temperature == 1.0:
            weight = setting.weight if setting.method == "lambda_reinmax" else 1.0
            return layout.second_order(self.probs, upstream, x, weight)
        middle = layout.softmax(self.logits / setting.temperature).add_(x).div_(2)
        return layout.covariance(middle, upstream).mul_(2).sub_(layout.covariance(self.probs, upstream), alpha=0.5)


class Chain:
    """redge and reindge: dz/dlambda = softmax(logits + lambda z)."""

    def __init__(self, layout: Layout, setting: Setting, logits: Tensor, noise: Noise, drawn: bool) -> None:
        self.layout, self.plan = layout, stages(setting.lambdas, setting.solver)
        self.second_order = setting.method == "reindge"
        self.bounded = drawn and is_bounded(setting) and layout.exponentiates(logits)
        self.scaled = layout.scaled(logits, self.bounded)
        self.probs = _run(layout, self.plan, self.evaluate, noise())

    def evaluate(self, z: Tensor, lam: float) -> Tensor:
        return self.layout.evaluate(self.scaled, z, lam, self.bounded)

    def law(self) -> Tensor:
        return self.probs[-1]

    def value(self, x: Tensor | None) -> Tensor:
        return self.probs[-1]

    def gradient(self, upstream: Tensor, x: Tensor | None) -> Tensor:
        layout, last = self.layout, self.probs[-1]
        path = layout.covariance(last, upstream)
        total = layout.second_order(last, upstream, x, 1.0) if self.second_order and x is not None else path
        at_z = path * (layout.gain * self.plan[-1].lam)

        def take(stage: int, change: Tensor, scale: float) -> None:
            total.add_(change, alpha=scale)
            if self.plan[stage].lam:
                at_z.add_(change, alpha=scale * layout.gain * self.plan[stage].lam)

        _pull_back(layout, self.plan, self.probs, at_z, take)
        return total


class MatchedChain:
    """redge_cov: z = p + w with w(0) = sqrt(v) noise, evaluated as softmax(logits + (lambda w - lambda^2 / 2) / v)."""

    def __init__(self, layout: Layout, setting: Setting, logits: Tensor, noise: Noise, drawn: bool) -> None:
        self.layout, self.logits, self.noise = layout, logits, noise()
        self.plan = stages(setting.lambdas, setting.solver)
        self.mean = layout.softmax(logits)
        self.spread = torch.addcmul(self.mean, self.mean, self.mean, value=-1)  # p (1 - p)
        self.variance = self.spread.clamp_min(0.1)
        self.tilts: list[Tensor] = []
        self.probs = _run(layout, self.plan, self.evaluate, self.variance.sqrt().mul_(self.noise))

    def evaluate(self, w: Tensor, lam: float) -> Tensor:
        # For pairs the term that both classes share drops out of the difference.
        self.tilts.append(w * lam if isinstance(self.layout, Pairs) else (w * lam).sub_(lam**2 / 2))
        return self.layout.softmax(torch.addcdiv(self.logits, self.tilts[-1], self.variance))

    def law(self) -> Tensor:
        return self.probs[-1]

    def value(self, x: Tensor | None) -> Tensor:
        return self.probs[-1]

    def gradient(self, upstream: Tensor, x: Tensor | None) -> Tensor:
        layout = self.layout
        total = layout.covariance(self.probs[-1], upstream)
        at_w = (total / self.variance).mul_(layout.gain * self.plan[-1].lam)
        at_inverse = self.tilts[-1] * total  # cotangent of 1 / v, for pairs of the one that both classes share

        def take(stage: int, change: Tensor, scale: float) -> None:
            total.add_(change, alpha=scale)
            at_w.addcdiv_(change, self.variance, value=scale * layout.gain * self.plan[stage].lam)
            at_inverse.addcmul_(self.tilts[stage], change, value=scale)

        _pull_back(layout, self.plan, self.probs, at_w, take)
        at_variance = (self.noise * at_w).div_(self.variance.sqrt()).mul_(0.5 / layout.gain)
        at_variance.sub_(at_inverse.div_(self.variance.square()))
        slope = (1 - 2 * self.mean).mul_(at_variance).masked_fill_(self.spread < 0.1, 0.0)
        return total.add_(layout.covariance(self.mean, slope))


class Sweep:
    """exact_redge: the hard sample first, then z = lambda_1 x + noise, swept back to lambda_0 with the adjoint on the way."""

    def __init__(self, layout: Layout, setting: Setting, logits: Tensor, noise: Noise, drawn: bool) -> None:
        self.layout, self.setting, self.noise = layout, setting, noise
        self.averaged = setting.num_noises > 1
        self.bounded = drawn and is_bounded(setting) and layout.exponentiates(logits)
        self.scaled = layout.scaled(logits, self.bounded)
        self.mean = None

    def denoise(self, z: Tensor, lam: float) -> Tensor:
        if lam == 0.0:
            return self.layout.repeat(self.law()) if self.averaged else self.law()
        scaled = self.layout.repeat(self.scaled) if self.averaged else self.scaled
        return self.layout.evaluate(scaled, z, lam, self.bounded)

    def law(self) -> Tensor:
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
        weight = self.setting.weight if self.setting.hard else 0.0
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


Method = Direct | Chain | MatchedChain | Sweep
METHODS: dict[str, Callable[..., Method]] = {
    "straight_through": Direct,
    "reinmax": Direct,
    "lambda_reinmax": Direct,
    "redge": Chain,
    "reindge": Chain,
    "redge_cov": MatchedChain,
    "exact_redge": Sweep,
}


def is_bounded(setting: Setting) -> bool:
    """Whether lambda z, for noise that torch drew, stays where powers of float32 neither overflow nor vanish."""
    return setting.lambdas[-1] <= 4.0  # |z| <= 7 + 2 lambda, exp(60) is finite


def _run(
    layout: Layout, plan: tuple[Stage, ...], evaluate: Callable[[Tensor, float], Tensor], z: Tensor
) -> list[Tensor]:
    probs: list[Tensor] = []
    for lam, moves in plan:
        for source, step in moves:
            z = layout.move(z, probs[source], step)
        probs.append(evaluate(z, lam))
    return probs


def _pull_back(
    layout: Layout,
    plan: tuple[Stage, ...],
    probs: list[Tensor],
    at_z: Tensor,
    take: Callable[[int, Tensor, float], None],
) -> None:
    """Carries the cotangent of z from the last stage to the first; `take` gets J(p_j) u of every stage j and its factor."""
    waiting: dict[int, Tensor] = {}  # cotangents of evaluations that several stages use
    for stage in range(len(plan) - 1, 0, -1):
        source, own = stage - 1, 0.0
        for earlier, step in plan[stage].moves:
            if earlier == source:
                own = step
            elif earlier in waiting:
                waiting[earlier].add_(at_z, alpha=step)
            else:
                waiting[earlier] = at_z * step
        if source in waiting:
            take(source, layout.covariance(probs[source], waiting.pop(source).add_(at_z, alpha=own)), 1.0)
        else:
            take(source, layout.covariance(probs[source], at_z), own)
