"""What the paths know of a method: its surrogate, what that takes, and the rule by which kernels compute it."""

import copy
import inspect
from collections.abc import Callable
from enum import IntEnum

from torch import Tensor


class Rule(IntEnum):
    """How a fast path draws and differentiates; p = softmax(logits), w the setting's weight. Numbers: `interface.h`."""

    DIRECT = 0  # x ~ p; (1 - w/2) J(p) + (w/2)(x - p)(x - p)^T, or ReinMax's form at a temperature
    GUMBEL = 1  # softmax((logits + Gumbel noise) / temperature)
    CHAIN = 2  # the end of the reverse diffusion; w at its last step
    MATCHED = 3  # the same from a Gaussian with the mean and the variances of x
    SWEEP = 4  # x ~ p, then the diffusion that leads to it, swept backwards; w at its last step


Draw = Callable[..., tuple[Tensor, Tensor]]  # (setting, rows, generator) -> hard sample, surrogate


class Method:
    """An estimator as the paths see it. Its surrogate's keyword-only arguments say what it needs.

    `rule`: how fast paths compute it; None, or one that a path does not know: it goes without. `draw`: how the naive
    path draws, if not as the rule says. `naive`: the same method without fast paths.
    """

    def __init__(self, surrogate: Callable[..., Tensor], rule: Rule | None, draw: Draw | None = None) -> None:
        self.name = surrogate.__name__.removesuffix("_surrogate")
        self.surrogate, self.rule, self.drawn_by, self.draw = surrogate, rule, rule, draw
        parameters = list(inspect.signature(surrogate).parameters.values())[1:]
        needed = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
        self.takes = tuple(parameter.name for parameter in parameters)
        self.needs_noise, self.needs_sample = "noise" in needed, "x" in needed
        METHODS[self.name] = self
        self.naive = copy.copy(self)
        self.naive.rule = None

    def __repr__(self) -> str:
        return self.name


METHODS: dict[str, Method] = {}  # by name, for custom operators, which carry text and numbers only
