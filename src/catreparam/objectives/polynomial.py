"""Polynomial programming: binary variables, loss mean_l |x_l - target|^power, and its expectation in closed form."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from catreparam.validation import check_choice, check_number

EXTENSIONS = ("power", "linear")


@dataclass(frozen=True)
class Polynomial:
    """One-hot x [*batch, num_variables, 2] -> mean_l |v_l - target|^power [*batch], v_l = x[..., l, 1].

    The same values at the vertices admit several continuous extensions: `power` is the formula itself; `linear`
    interpolates, and straight-through is unbiased on it. Raises ValueError for target outside (0, 1) or power <= 0.
    """

    power: float = 2.0
    target: float = 0.45
    extension: str = "power"

    def __post_init__(self) -> None:
        check_number("power", self.power, above=0.0)
        check_number("target", self.target, above=0.0, most=1.0)
        check_choice("extension", self.extension, EXTENSIONS)

    def __call__(self, x: Float[Tensor, "*batch num_variables 2"]) -> Float[Tensor, "*batch"]:
        if self.extension == "linear":
            return (x * self.vertex_values().to(x)).sum(-1).mean(-1)
        return ((x[..., 1] - self.target).abs() ** self.power).mean(-1)

    def vertex_values(self) -> Float[Tensor, "2"]:
        """The loss of one variable at 0 and at 1."""
        return torch.tensor([self.target**self.power, (1 - self.target) ** self.power], dtype=torch.float64)

    def expected(self, logits: Float[Tensor, "*batch num_variables 2"]) -> Float[Tensor, "*batch"]:
        """E[loss] under the exact law, x_l ~ Categorical(softmax(logits_l)), in float64.

        >>> round(Polynomial(power=2.0).expected(torch.zeros(8, 2)).item(), 5)
        0.2525
        """
        return (torch.softmax(logits.double(), -1) * self.vertex_values().to(logits.device)).sum(-1).mean(-1)

    @property
    def optimum(self) -> float:
        """The lowest expected loss."""
        return float(self.vertex_values().min())
