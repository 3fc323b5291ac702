"""What a call of an estimator does, apart from its tensors: checked once, then looked up."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from catreparam.categorical import draw_one_hot
from catreparam.kernels.methods import METHODS, Method, Rule
from catreparam.noise_schedule import NoiseSchedule


class Setting(NamedTuple):
    """A method and its hyperparameters. Values are not checked. Relaxed samples (hard=False) have weight 0."""

    method: Method
    lambdas: tuple[float, ...] = (0.0,)
    solver: str = "euler"
    hard: bool = True
    num_noises: int = 1
    temperature: float = 1.0
    weight: float = 0.0

    def arguments(self, noise: Tensor | None, x: Tensor | None) -> dict[str, Any]:
        """The keyword arguments of the method's surrogate."""
        known = {"noise": noise, "x": x, "solver": self.solver, "temperature": self.temperature}
        known |= {"schedule": NoiseSchedule(self.lambdas), "weight": self.weight, "second_order_weight": self.weight}
        return {name: known[name] for name in self.method.takes}

    def flat(self) -> tuple[Any, ...]:
        """As custom operators carry it."""
        return (self.method.name, list(self.lambdas), *self[2:])

    @classmethod
    def unflat(cls, method: str, lambdas: Sequence[float], *rest: Any) -> "Setting":
        """Undoes `flat`."""
        return cls(METHODS[method], tuple(lambdas), *rest)


def draw_surrogate(logits: Tensor) -> Tensor:
    """softmax(logits): what is drawn from, with straight-through's gradient."""
    return torch.softmax(logits, -1)


def draw_from_surrogate(setting: Setting, rows: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """How the naive path draws where the surrogate is the law itself: one softmax for both."""
    probs = setting.method.surrogate(rows)
    return draw_one_hot(probs, generator), probs


# For methods that need an exact hard sample before all else.
DRAW = Setting(Method(draw_surrogate, Rule.DIRECT, draw_from_surrogate))


def remembered(make: Callable[..., Setting]) -> Callable[..., Setting]:
    """`make`, called once for the same arguments of the same types: checking them costs as much as a small sample."""
    # Typed: True == 1, which may be allowed where True is not.
    known = functools.lru_cache(maxsize=1024, typed=True)(make)

    @functools.wraps(make)
    def look_up(*arguments: Any) -> Setting:
        if torch.compiler.is_compiling():
            return make(*arguments)
        try:
            return known(*arguments)
        except TypeError:  # for arguments that have no hash too; they are no good, and `make` says so better
            return make(*arguments)

    return look_up
