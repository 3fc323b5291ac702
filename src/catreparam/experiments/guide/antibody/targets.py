"""What designs should be: properties with targets and weights, and the reward that they make together."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from catreparam.experiments.guide.antibody.inputs import Antibody
from catreparam.guidance import Reward
from catreparam.models.antiberty import HEADS, AntiBERTy
from catreparam.objectives.residues import (
    LIABILITIES,
    MOTIFS,
    RESIDUES,
    aromaticity,
    hydropathy,
    hydrophobic_patch,
    isoelectric_point,
    liability_counts,
    net_charge,
)
from catreparam.validation import check_choice, check_count, check_number

START = "start"  # a target: the value before design

# What counts as a difference of one in the reward, and what the property is.
UNITS = {
    "charge": (1.0, "net charge"),
    "pi": (0.5, "isoelectric point"),
    "gravy": (0.1, "hydropathy (GRAVY)"),
    "patch": (0.5, "most hydrophobic window"),
    "aromaticity": (0.02, "share of aromatic residues"),
    "liabilities": (1.0, "liabilities with a part in the designed positions"),
}


@dataclass(frozen=True)
class Measures:
    """How properties are measured: the pH of the charge, the window of the patch, which liabilities count."""

    ph: float = 7.4
    window: int = 9
    liability_kinds: tuple[str, ...] = LIABILITIES

    def checked(self) -> "Measures":
        """These. Raises ValueError or TypeError naming the bad value."""
        check_number("ph", self.ph, least=0.0, most=14.0)
        check_count("window", self.window)
        for kind in self.liability_kinds:
            check_choice("liability", kind, LIABILITIES)
        if not self.liability_kinds:
            raise ValueError("liability_kinds must name one or several")
        return self

    def of(self, name: str, antibody: Antibody) -> Callable[[Tensor], Tensor]:
        """The property of that name: one-hot x [B, L, 20] -> [B]. Liabilities outside of all designs do not count."""
        found: dict[str, Callable[[Tensor], Tensor]] = {
            "charge": lambda x: net_charge(x, self.ph),
            "pi": isoelectric_point,
            "gravy": hydropathy,
            "patch": lambda x: hydrophobic_patch(x, self.window),
            "aromaticity": aromaticity,
            "liabilities": lambda x: liability_counts(x, self.liability_kinds).sum(-1) - self._fixed(antibody),
        }
        return found[name]

    def all_of(self, sequences: list[str], antibody: Antibody) -> dict[str, list[float]]:
        """Every property of designs of an antibody, by name."""
        x = one_hot(sequences)
        return {name: self.of(name, antibody)(x).tolist() for name in UNITS}

    def _fixed(self, antibody: Antibody) -> float:
        """The motifs outside the designed positions: where a residue is missing, a motif has no part."""
        kinds = tuple(kind for kind in self.liability_kinds if kind in MOTIFS)
        x = torch.eye(len(RESIDUES) + 1)[antibody.tokens(), :-1]
        return float(liability_counts(x, kinds).sum()) if kinds else 0.0


@dataclass(frozen=True)
class Target:
    """A property that should have a value, or a head of the model that should see a class."""

    name: str
    value: float | str
    weight: float

    def __str__(self) -> str:
        """As it is written in titles: charge 8, chain heavy."""
        return f"{self.name} {self.shown}"

    @property
    def shown(self) -> str:
        """The value without needless digits."""
        return self.value if isinstance(self.value, str) else f"{self.value:g}"

    def term(self, measures: Measures, antibody: Antibody, model: AntiBERTy) -> Callable[[Tensor], Tensor]:
        """Its part of the reward: -weight * ((value - target) / unit)^2, or weight * log-probability of the class."""
        if self.name in HEADS:
            index = HEADS[self.name].index(str(self.value))
            return lambda x: self.weight * model.log_probs(self.name, x)[:, index]
        measure, (unit, _) = measures.of(self.name, antibody), UNITS[self.name]
        goal = float(measure(one_hot([antibody.sequence]))) if self.value == START else float(self.value)
        return lambda x: -self.weight * ((measure(x) - goal) / unit).square()


def class_probabilities(targets: tuple[Target, ...], sequences: list[str], model: AntiBERTy) -> dict[str, list[float]]:
    """For every targeted head, the probability that it gives the wanted class of each sequence, by the head's name."""
    x = one_hot(sequences)
    heads = {target.name: HEADS[target.name].index(str(target.value)) for target in targets if target.name in HEADS}
    with torch.no_grad():
        return {name: model.log_probs(name, x)[:, index].exp().tolist() for name, index in heads.items()}


def make_targets(wanted: dict[str, float | str | None], weights: tuple[str, ...]) -> tuple[Target, ...]:
    """Targets from values (None: not wanted) and weights like charge=2; a weight is 1 unless given.

    Raises ValueError for nothing wanted, classes that a head does not have, and weights of what is not wanted.
    """
    given = {name: value for name, value in wanted.items() if value is not None}
    if not given:
        raise ValueError(f"say what the designs should be, by one or several of --{', --'.join(wanted)}")
    factors = dict.fromkeys(given, 1.0)
    for text in weights:
        name, _, number = text.partition("=")
        try:
            factors[check_choice("weight of", name, list(given))] = float(number)
        except ValueError as error:
            if name in given:
                raise ValueError(f"cannot read the weight {text!r}; write it like charge=2") from error
            raise
        check_number(f"weight of {name}", factors[name], above=0.0)
    for name, value in given.items():
        if name in HEADS:
            check_choice(name, value, HEADS[name])
        elif value != START:
            check_number(name, value)
    return tuple(Target(name, value, factors[name]) for name, value in given.items())


def make_reward(targets: tuple[Target, ...], measures: Measures, antibody: Antibody, model: AntiBERTy) -> Reward:
    """The reward of one-hot sequences x [B, L, 20]: the sum of the terms; 0 is the most that properties can give."""
    terms = [target.term(measures, antibody, model) for target in targets]

    def reward(x: Tensor) -> Tensor:
        return torch.stack([term(x) for term in terms]).sum(0)

    return reward


def one_hot(sequences: list[str]) -> Tensor:
    """x [B, L, 20] of sequences of one length."""
    return torch.eye(len(RESIDUES))[torch.tensor([[RESIDUES.index(letter) for letter in row] for row in sequences])]
