"""Which component made an observation: the categorical posterior of a Gaussian mixture, known in closed form."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from catreparam.validation import check_choice, check_count, check_number

EXTENSIONS = ("mean", "linear")


@dataclass(frozen=True)
class MixturePosterior:
    """One-hot components x [*batch, num_observations, num_components] -> -log p(observation given x).

    Component means are N(0, spread^2 I), observations their component's mean plus N(0, noise^2 I), components equally
    likely; all drawn from `seed` in float64. Between the vertices `mean` is the formula at the mean x @ means, `linear`
    interpolates the values, so that straight-through is unbiased on it. Raises ValueError for sizes or scales not
    positive.
    """

    num_components: int = 20
    num_observations: int = 500
    num_dimensions: int = 2
    spread: float = 15.0
    noise: float = 2.0
    extension: str = "mean"
    seed: int = 0
    means: Tensor = field(init=False, repr=False, compare=False)  # [num_components, num_dimensions]
    observations: Tensor = field(init=False, repr=False, compare=False)  # [num_observations, num_dimensions]

    def __post_init__(self) -> None:
        for name in ("num_components", "num_observations", "num_dimensions"):
            check_count(name, getattr(self, name))
        check_number("spread", self.spread, above=0.0)
        check_number("noise", self.noise, above=0.0)
        check_choice("extension", self.extension, EXTENSIONS)
        generator = torch.Generator().manual_seed(self.seed)
        means = self.spread * _normal((self.num_components, self.num_dimensions), generator)
        components = torch.randint(self.num_components, (self.num_observations,), generator=generator)
        observations = means[components] + self.noise * _normal((self.num_observations, self.num_dimensions), generator)
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "observations", observations)

    def __call__(
        self, x: Float[Tensor, "*batch num_observations num_components"]
    ) -> Float[Tensor, "*batch num_observations"]:
        if self.extension == "linear":
            return -(x * self.log_likelihoods().to(x)).sum(-1)
        distance = ((self.observations.to(x) - x @ self.means.to(x)) ** 2).sum(-1)
        return distance / (2 * self.noise**2) + self._log_normaliser()

    def log_likelihoods(self) -> Float[Tensor, "num_observations num_components"]:
        """log p(observation given component)."""
        distance = ((self.observations.unsqueeze(1) - self.means) ** 2).sum(-1)
        return -distance / (2 * self.noise**2) - self._log_normaliser()

    def posterior(self) -> Float[Tensor, "num_observations num_components"]:
        """p(component given observation), exactly."""
        return torch.softmax(self.log_likelihoods(), -1)

    def negative_log_evidence(self) -> Float[Tensor, " num_observations"]:
        """-log p(observation): the lowest negative ELBO."""
        log_prior = torch.log(torch.tensor(float(self.num_components), dtype=torch.float64))
        return log_prior - torch.logsumexp(self.log_likelihoods(), -1)

    def gap(self, logits: Float[Tensor, "num_observations num_components"]) -> Float[Tensor, " num_observations"]:
        """Negative ELBO of q = softmax(logits) above its optimum = KL(q || posterior), in closed form, in float64."""
        log_q = torch.log_softmax(logits.double(), -1)
        return (log_q.exp() * (log_q - torch.log_softmax(self.log_likelihoods(), -1))).sum(-1)

    def total_variation(
        self, logits: Float[Tensor, "num_observations num_components"]
    ) -> Float[Tensor, " num_observations"]:
        """Total variation between softmax(logits) and the posterior."""
        return (torch.softmax(logits.double(), -1) - self.posterior()).abs().sum(-1) / 2

    def _log_normaliser(self) -> float:
        scale = torch.tensor(2 * torch.pi * self.noise**2, dtype=torch.float64)
        return self.num_dimensions / 2 * float(torch.log(scale))


def _normal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)
