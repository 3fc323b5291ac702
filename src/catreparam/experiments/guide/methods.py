"""The methods that `catreparam guide` compares, each with a knob for its strength, all at equal evaluations."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Generator, Tensor

from catreparam.estimators import ESTIMATORS
from catreparam.experiments.runs.estimator_specs import build_estimator, normalise_specs
from catreparam.guidance import (
    Generation,
    QuantizedExpectation,
    Reward,
    RoundInfo,
    best_of_n,
    entropy_mixing,
    guided_sample,
    smc,
    svdd,
)
from catreparam.masked_diffusion import Condition, Denoiser
from catreparam.validation import check_choice

# Methods that are no estimators of the library: name -> what it is. Estimators are named as everywhere else.
OTHER_METHODS = {
    "unguided": "samples of the prior",
    "best_of_n": "the best of independent samples of the prior",
    "svdd": "candidates in every round, valued by one draw ahead",
    "svdd_direct": "candidates in every round, valued by the draw that made them",
    "smc": "particles weighted by their reward and resampled",
    "aps": "guidance through expected codes, quantised (APS)",
    "entrgi": "guidance through codes mixed by entropy (EntRGi)",
}
CANDIDATES = ("best_of_n", "svdd", "svdd_direct", "smc")


@dataclass(frozen=True)
class Budget:
    """Rounds of unmasking, and steps of optimisation in a round: what every method may spend on a sequence."""

    num_rounds: int
    num_steps: int

    @property
    def evaluations(self) -> int:
        """Of the model, the reward and its gradient, each counted as one; the last reward included."""
        return self.num_rounds * (1 + 2 * self.num_steps) + 1

    def candidates(self, method: str) -> int:
        """How many candidates (particles) a method without gradients may have for the same evaluations; at least 1."""
        rounds = self.num_rounds
        spent = {
            "unguided": 1,
            "best_of_n": self.evaluations // (rounds + 1),
            "svdd": (self.evaluations - 1) // (2 * rounds - 1),
            "svdd_direct": (self.evaluations - rounds) // rounds,
            "smc": self.evaluations // (2 * rounds),
        }
        return max(1, spent[method])


def check_methods(methods: tuple[str, ...]) -> tuple[str, ...]:
    """The methods in one spelling. Raises ValueError for unknown ones and for the same one twice."""
    names = [method.strip() for method in methods]
    if not names:
        raise ValueError(f"name at least one method: {', '.join([*OTHER_METHODS, *ESTIMATORS])}")
    for name in names:
        check_choice("method", name.partition(":")[0].strip(), [*ESTIMATORS, *OTHER_METHODS])
        if name in OTHER_METHODS and names.count(name) > 1:
            raise ValueError(f"method {name!r} is listed twice")
    estimators = [name for name in names if name not in OTHER_METHODS]
    normal = iter(normalise_specs(estimators) if estimators else ())
    return tuple(name if name in OTHER_METHODS else next(normal) for name in names)


def is_gradient_method(method: str) -> bool:
    """Whether a method optimises logits (and so takes a KL weight)."""
    return method not in ("unguided", *CANDIDATES)


def strengths(method: str, kl_weights: tuple[float, ...], reward_weights: tuple[float, ...]) -> tuple[float, ...]:
    """The values of a method's knob: KL weights, reward weights, or one value (0) where there is nothing to turn."""
    if is_gradient_method(method):
        return kl_weights
    return (0.0,) if method in ("unguided", "best_of_n") else reward_weights


def generate(
    method: str,
    strength: float,
    denoiser: Denoiser,
    reward: Reward,
    tokens: Tensor,
    *,
    budget: Budget,
    codebook: Tensor,
    lr: float = 0.15,
    num_samples: int = 1,
    forgetting: float = 0.0,
    order: str = "confidence",
    condition: Condition | None = None,
    checkpoint: Path | None = None,
    callback: Callable[[RoundInfo], Any] | None = None,
    generator: Generator,
) -> Generation:
    """Tokens by one method at one strength (of the KL, or of the reward), within the budget."""
    prior = denoiser, reward, tokens
    settings: dict[str, Any] = {"num_rounds": budget.num_rounds, "order": order, "condition": condition}
    settings["generator"] = generator
    if not is_gradient_method(method):
        count = budget.candidates(method)
        if method in ("unguided", "best_of_n"):
            return best_of_n(*prior, num_candidates=count, chunk_size=4, **settings)
        if method == "smc":
            return smc(*prior, num_particles=count, reward_weight=strength, **settings)
        return svdd(*prior, num_candidates=count, reward_weight=strength, lookahead=method == "svdd", **settings)
    return guided_sample(
        *prior,
        estimator=_estimator(method, codebook),
        num_steps=max(1, budget.num_steps // num_samples),
        num_samples=num_samples,
        lr=lr,
        kl_weight=strength,
        forgetting=forgetting,
        checkpoint=checkpoint,
        callback=callback,
        **settings,
    )


def _estimator(method: str, codebook: Tensor) -> Callable[..., Tensor]:
    if method == "aps":
        return QuantizedExpectation(codebook)
    return entropy_mixing if method == "entrgi" else build_estimator(method)
