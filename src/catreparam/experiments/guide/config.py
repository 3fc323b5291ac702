"""What `catreparam guide` can be asked for."""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path

from catreparam.experiments.guide.methods import OTHER_METHODS, Budget, check_methods, is_gradient_method, strengths
from catreparam.experiments.guide.rewards import RewardSpec
from catreparam.experiments.runs.configs import check_distinct, check_seeds
from catreparam.experiments.runs.folder import Record
from catreparam.masked_diffusion.orders import ORDERS
from catreparam.validation import check_choice, check_count, check_number

ESTIMATORS = ("straight_through", "gumbel_softmax", "reinmax", "redge", "exact_redge")


@dataclass(frozen=True)
class Config:
    """What to generate. The defaults take a few minutes on two cores."""

    reward: str = "class:3"
    """class:3 | class:all | logit:3 | ink:0.2 | symmetry | imagenet:281 (with the extra packages)."""
    estimator: tuple[str, ...] = ("straight_through", "reinmax", "exact_redge:t1=0.7,num_noises=4")
    """Estimators, each with hyperparameters if wanted: exact_redge:num_noises=2,t1=0.5."""
    rivals: tuple[str, ...] = ("unguided", "best_of_n")
    """Other methods: unguided best_of_n svdd svdd_direct smc aps entrgi."""
    kl_weights: tuple[float, ...] = (0.02, 0.1, 0.5)
    """Weights of the KL to the prior, for methods that optimise logits."""
    reward_weights: tuple[float, ...] = (1.0, 8.0)
    """Weights of the reward, for svdd and smc."""
    num_images: int = 50
    """Images for each method, weight and seed."""
    num_rounds: int = 7
    """Rounds of unmasking."""
    num_steps: int = 10
    """Steps of Adam in a round."""
    num_samples: int = 1
    """Draws a step, for methods that optimise logits; their steps are cut to keep the evaluations."""
    lr: float = 0.15
    """Learning rate of Adam."""
    forgetting: float = 0.0
    """Part of the earlier rounds' optimisation that a round forgets; 1 starts every round at the prior."""
    order: str = "confidence"
    """ancestral | random | confidence | halton | entropy | margin | …: which tokens are revealed first."""
    label: int | None = None
    """Condition the prior on a class; by default it is unconditional."""
    seeds: tuple[int, ...] = (0,)
    """One generation for each method, weight and seed."""
    weights: str | None = None
    """File of networks made by `catreparam guide train`; default the shipped ones."""
    jobs: int = 1
    """Generations side by side, each on one thread."""
    folder: Path | None = None
    """Run folder; default runs/guide-REWARD. The same command resumes there."""

    def checked(self) -> "Config":
        """This config with methods in one spelling. Raises ValueError or TypeError naming the bad value."""
        for name in ("num_images", "num_rounds", "num_steps", "num_samples", "jobs"):
            check_count(name, getattr(self, name))
        check_number("lr", self.lr, above=0.0)
        check_number("forgetting", self.forgetting, least=0.0, most=1.0)
        check_choice("order", self.order, ORDERS)
        for name in ("kl_weights", "reward_weights", "seeds"):
            values = getattr(self, name)
            for weight in values if name != "seeds" else ():
                check_number(name, weight, least=0.0)
            check_distinct(name, values)
        check_seeds("seeds", self.seeds)
        if self.label is not None and not 0 <= self.label <= 9:
            raise ValueError(f"label must lie in [0, 9], got {self.label}")
        for rival in self.rivals:
            check_choice("rival", rival, OTHER_METHODS)
        RewardSpec.parse(self.reward).targets(1)
        check_methods((*self.rivals, *self.estimator))
        return dataclasses.replace(self, estimator=check_methods(self.estimator))

    @property
    def methods(self) -> tuple[str, ...]:
        """Everything that is compared."""
        return (*self.rivals, *self.estimator)

    @property
    def budget(self) -> Budget:
        """What every method may spend on a sequence."""
        return Budget(self.num_rounds, self.num_steps)

    def run_folder(self) -> Path:
        """Where the run lives."""
        return self.folder or Path("runs") / f"guide-{self.reward.replace(':', '-')}"

    def keys(self) -> list[Record]:
        """Every (method, strength, seed) to generate: all methods of a seed before the next seed."""
        return [
            {"method": method, "strength": strength, "seed": seed}
            for seed, method in itertools.product(self.seeds, self.methods)
            for strength in strengths(method, self.kl_weights, self.reward_weights)
        ]

    def shows_rounds(self, method: str, strength: float, seed: int) -> bool:
        """Whether this generation is pictured round by round: one for each method that optimises logits."""
        middle = self.kl_weights[len(self.kl_weights) // 2]
        return is_gradient_method(method) and strength == middle and seed == self.seeds[0]


PRESETS = {
    "quick": Config(num_images=20, kl_weights=(0.05,), folder=Path("runs/guide-quick")),
    "paper": Config(
        reward="class:all",
        estimator=(*ESTIMATORS, "exact_redge:t1=0.7,num_noises=4"),
        rivals=tuple(OTHER_METHODS),
        kl_weights=(0.02, 0.05, 0.1, 0.2, 0.5),
        reward_weights=(0.5, 1.0, 2.0, 8.0),
        folder=Path("runs/guide-paper"),
        num_images=100,
        seeds=(0, 1, 2),
    ),
}
