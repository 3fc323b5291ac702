"""What a call of an estimator does, apart from its tensors: checked once, then looked up."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.compiler import is_compiling

from catreparam.categorical import draw_one_hot
from catreparam.hyperparameters import for_rows
from catreparam.kernels.methods import METHODS, Method, Rule
from catreparam.noise_schedule import NoiseSchedule


class Setting(NamedTuple):
    """A method and its hyperparameters. Values are not checked. Relaxed samples (hard=False) have weight 0.

    Tensors, one value a row, go with a naive method; for the rows of a call they are laid out by `for_rows`.
    """

    method: Method
    lambdas: tuple[Any, ...] = (0.0,)
    solver: str = "euler"
    hard: bool = True
    num_noises: int = 1
    temperature: Any = 1.0
    weight: Any = 0.0

    def for_rows(self, rows: Tensor, dim: int) -> "Setting":
        """With its tensors as rows [*batch, num_classes] need them. Raises what `hyperparameters.for_rows` raises."""
        if self.method.rule is not None:
            return self
        lambdas = tuple(for_rows("t1", value, rows, dim) for value in self.lambdas)
        temperature = for_rows("temperature", self.temperature, rows, dim)
        name = "weight" if "weight" in self.method.takes else "second_order_weight"
        return self._replace(lambdas=lambdas, temperature=temperature, weight=for_rows(name, self.weight, rows, dim))

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
    """`make`, called once for the same arguments of the same types: checking them costs as much as a small sample.

    With tensors it is called every time, and its setting takes the naive path.
    """

    @functools.lru_cache(maxsize=1024, typed=True)  # True == 1, which may be allowed where True is not
    def known(*arguments: Any) -> Setting:
        if any(isinstance(argument, Tensor) for argument in arguments):
            raise TypeError("the values of a tensor change")
        return make(*arguments)

    @functools.wraps(make)
    def look_up(*arguments: Any) -> Setting:
        if not is_compiling():
            try:
                return known(*arguments)
            except TypeError:  # for arguments that have no hash too; they are no good, and `make` says so better
                pass
        made = make(*arguments)
        tensors = any(isinstance(value, Tensor) for value in (*made.lambdas, made.temperature, made.weight))
        return made._replace(method=made.method.naive) if tensors else made

    return look_up
