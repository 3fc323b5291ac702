"""What the Sudoku study can be asked for."""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path

from catreparam.data.sudoku import CLUES, HELD_BACK_COUNT
from catreparam.experiments.runs.configs import check_distinct
from catreparam.experiments.runs.estimator_specs import normalise_specs, try_estimator
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.sudoku.priors import PRIORS, load_prior
from catreparam.validation import check_choice, check_count, check_number

FREE = {"none": "no prior", "none_excluded": "no prior, digits of peers' clues excluded"}
UNGUIDED = {"unguided": "sample", "unguided_argmax": "argmax"}  # the prior alone: what a round proposes
ESTIMATORS = (
    "redge:t1=0.9",
    "redge",
    "straight_through",
    "gumbel_softmax",
    "reinmax",
    "exact_redge:second_order_weight=1.0,num_noises=2",
)


@dataclass(frozen=True)
class Config:
    """What to solve, and how hard to try."""

    puzzle: str = ""
    """One puzzle to solve and show: 81 characters by rows, `.` or 0 for blanks. Takes the first prior and estimator."""
    estimators: tuple[str, ...] = ESTIMATORS
    """Names, each with hyperparameters if wanted: redge:num_steps=4,t1=0.5."""
    priors: tuple[str, ...] = ("long", "medium", "short", "untrained", "none_excluded", "none")
    """none | none_excluded | untrained | short | medium | long | a .safetensors file."""
    levels: tuple[str, ...] = ("easy", "hard")
    """easy: 36 to 45 clues; medium: 30 to 35; hard: 22 to 29."""
    num_puzzles: int = 100
    """Held-back puzzles of each level; there are 1,000."""
    num_rounds: int = 20
    """Rounds of unmasking."""
    num_steps: int = 20
    """Steps of Adam in each round."""
    lr: float = 0.1
    """Learning rate of Adam with a prior."""
    kl_weight: float = 0.1
    """Weight of the KL to the prior; the penalty has weight 1."""
    num_samples: int = 4
    """Draws per step and puzzle with a prior (rloo needs at least 2)."""
    order: str = "confidence"
    """confidence | ancestral: which cells a round reveals (the paper: ancestral, at random)."""
    commit: str = "sample"
    """sample | argmax | best: what a guided round proposes for the cells that it reveals."""
    free_steps: int = 1000
    """Steps of Adam without prior."""
    free_lr: float = 0.1
    """Learning rate without prior."""
    free_samples: int = 1
    """Draws per step and puzzle without prior."""
    attempts: int = 5
    """Attempts with a prior; puzzles that are not solved yet are tried again, the best board counts as best so far."""
    restarts: int = 2
    """The same without prior. With --puzzle: attempts side by side, at least."""
    seed: int = 0
    """Of all draws."""
    jobs: int = 1
    """Cells of the table side by side, each on one thread."""
    folder: Path | None = None
    """Run folder; default runs/sudoku. The same command resumes there."""

    def checked(self) -> "Config":
        """This config with estimators in one spelling. Raises ValueError or TypeError naming the bad value."""
        counts = ("num_puzzles", "num_rounds", "num_steps", "free_steps", "num_samples", "free_samples", "restarts")
        for name in (*counts, "attempts", "jobs"):
            check_count(name, getattr(self, name))
        if self.num_puzzles > HELD_BACK_COUNT:
            raise ValueError(f"num_puzzles must be at most {HELD_BACK_COUNT}, got {self.num_puzzles}")
        for name in ("lr", "free_lr"):
            check_number(name, getattr(self, name), above=0.0)
        check_number("kl_weight", self.kl_weight, least=0.0)
        check_choice("order", self.order, ("confidence", "ancestral"))
        check_choice("commit", self.commit, ("argmax", "sample", "best"))
        check_distinct("priors", self.priors)
        check_distinct("levels", self.levels)
        for level in self.levels:
            check_choice("level", level, CLUES)
        for prior in self.priors:
            if prior.endswith(".safetensors"):
                load_prior(prior)
            else:
                check_choice("prior", prior, (*FREE, *PRIORS))
        estimators = normalise_specs(self.estimators)
        for spec in estimators:
            try_estimator(spec, (81, 9), num_samples=min(self.num_samples, self.free_samples))
        return dataclasses.replace(self, estimators=estimators)

    def keys(self) -> list[Record]:
        """Every cell of the tables."""
        return [
            {"level": level, "prior": prior, "method": method}
            for level, prior in itertools.product(self.levels, self.priors)
            for method in (*(() if prior in FREE else UNGUIDED), *self.estimators)
        ]


PRESETS = {
    "quick": Config(
        estimators=("straight_through", "redge:t1=0.9"),
        priors=("long", "short", "none_excluded"),
        num_puzzles=12,
        free_steps=500,
        folder=Path("runs/sudoku-quick"),
    ),
    "paper": Config(  # every protocol value of the paper that we know; its 2,000 steps at .05 without prior
        estimators=("straight_through", "gumbel_softmax", "reinmax", "redge:num_steps=2,t1=0.9", "reindge"),
        num_puzzles=1000,
        order="ancestral",
        attempts=1,
        num_steps=50,
        kl_weight=1.0,
        num_samples=1,
        free_steps=2000,
        free_lr=0.05,
        restarts=1,
        folder=Path("runs/sudoku-paper"),
    ),
}
