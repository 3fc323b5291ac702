"""Small objectives to measure estimators on: one-hot x [*batch, num_variables, num_classes] -> loss [*batch].

Each is a picklable frozen object with its own constants, drawn once from its seed in float64, cast to the dtype of x.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from catreparam.validation import check_choice, check_count, check_number

OneHot = Float[Tensor, "*batch num_variables num_classes"]
Loss = Float[Tensor, "*batch"]


@dataclass(frozen=True)
class ToyObjective:
    """A loss of `num_variables` categorical variables with `num_classes` classes; constants drawn from `seed`."""

    num_variables: int = 3
    num_classes: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("num_variables", self.num_variables)
        check_count("num_classes", self.num_classes)
        for name, shape in self.shapes().items():
            generator = torch.Generator().manual_seed(self.seed * 1009 + sum(map(ord, name)))
            object.__setattr__(self, name, torch.randn(shape, generator=generator, dtype=torch.float64))

    @property
    def size(self) -> int:
        """Entries of one flattened x."""
        return self.num_variables * self.num_classes

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the standard normal constants that become attributes."""
        return {}

    def __call__(self, x: OneHot) -> Loss:
        raise TypeError(f"{type(self).__name__} is not an objective by itself; use one of {', '.join(OBJECTIVES)}")


class Quadratic(ToyObjective):
    """x^T Q x / size + q^T x with random Q and q: ReinMax is exact here, straight-through is not."""

    matrix: Tensor
    slope: Tensor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"matrix": (self.size, self.size), "slope": (self.size,)}

    def __call__(self, x: OneHot) -> Loss:
        flat = x.flatten(-2)
        curved = ((flat @ self.matrix.to(x)) * flat).sum(-1) / self.size**0.5
        return curved + flat @ self.slope.to(x) / 2


@dataclass(frozen=True)
class Power(ToyObjective):
    """mean_l |v_l - target|^power with v_l in [0, 1] the value of variable l: the paper's polynomial programme."""

    target: float = 0.45
    power: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("power", self.power, above=0.0)

    def __call__(self, x: OneHot) -> Loss:
        values = torch.linspace(0.0, 1.0, self.num_classes, dtype=x.dtype, device=x.device)
        return ((x @ values - self.target).abs() ** self.power).mean(-1)


class SmallMLP(ToyObjective):
    """A random two-layer tanh network of all variables: smooth and of all orders."""

    inner: Tensor
    outer: Tensor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"inner": (self.size, 16), "outer": (16,)}

    def __call__(self, x: OneHot) -> Loss:
        hidden = torch.tanh(x.flatten(-2) @ self.inner.to(x) / self.num_variables**0.5)
        return hidden @ self.outer.to(x) / 2


class LookupTable(ToyObjective):
    """A random value per joint configuration, extended multilinearly: rough, linear in each variable."""

    table: Tensor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"table": (self.num_classes,) * self.num_variables}

    def __call__(self, x: OneHot) -> Loss:
        table = self.table.to(x)
        for variable in range(self.num_variables):
            # contract one variable at a time: table [*batch, K, K, …] with weights [*batch, K]
            weights = x[..., variable, :]
            rest = self.num_variables - 1 - variable
            weights = weights.reshape(*weights.shape, *(1,) * rest)
            table = (table * weights).sum(-1 - rest)
        return table


class Misleading(ToyObjective):
    """Linear in value at the vertices, with other slopes there: no gradient at a hard sample tells the truth."""

    slope: Tensor
    lure: Tensor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"slope": (self.size,), "lure": (self.size,)}

    def __call__(self, x: OneHot) -> Loss:
        flat = x.flatten(-2)
        return flat @ self.slope.to(x) + (flat * (1 - flat) * (1 - 2 * flat)) @ (4 * self.lure.to(x))


OBJECTIVES: dict[str, Callable[..., ToyObjective]] = {
    "quadratic": Quadratic,
    "power": Power,
    "mlp": SmallMLP,
    "table": LookupTable,
    "misleading": Misleading,
}


def make_objective(name: str, *, num_variables: int = 3, num_classes: int = 4, seed: int = 0) -> ToyObjective:
    """The built-in objective called `name`. Raises ValueError for an unknown name, naming the valid ones.

    >>> make_objective("quadratic", num_variables=2)(torch.eye(4)[[0, 1]]).shape
    torch.Size([])
    """
    kind = OBJECTIVES[check_choice("objective", name, OBJECTIVES)]
    return kind(num_variables=num_variables, num_classes=num_classes, seed=seed)
