"""What `catreparam guide antibody` can be asked for."""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from catreparam.experiments.guide.antibody.inputs import Antibody, read_antibodies, read_fasta
from catreparam.experiments.guide.antibody.targets import START, Measures, Target, make_targets
from catreparam.experiments.guide.antibody.weights import PRECISIONS
from catreparam.experiments.guide.methods import OTHER_METHODS, Budget, check_methods, strengths
from catreparam.experiments.runs.configs import check_distinct, check_seeds
from catreparam.experiments.runs.folder import Record
from catreparam.masked_diffusion.orders import ORDERS
from catreparam.objectives.residues import LIABILITIES
from catreparam.validation import check_choice, check_count, check_number

Wanted = float | Literal["start"] | None


@dataclass(frozen=True)
class Config:
    """What to design, towards what, by which methods. The defaults take less than a minute on two cores."""

    sequence: tuple[str, ...] = ()
    """Residues, with _ where one is to be designed; NAME=RESIDUES names them. Several: one after the other."""
    fasta: Path | None = None
    """Instead: a FASTA file."""
    design: tuple[str, ...] = ()
    """Positions to be designed, from 1: 26-33,51-58,97-110. One for all sequences, or one for each."""
    charge: Wanted = None
    """Target of the net charge, or `start` to keep that of the sequence."""
    pi: Wanted = None
    """Target of the isoelectric point."""
    gravy: Wanted = None
    """Target of the mean hydropathy; low is soluble."""
    patch: Wanted = None
    """Target of the mean hydropathy of the most hydrophobic window."""
    aromaticity: Wanted = None
    """Target of the share of F, W and Y."""
    liabilities: Wanted = None
    """Target of the number of liabilities that have a part in the designed positions, usually 0."""
    chain: str | None = None
    """heavy | light: what the model's own head should see."""
    species: str | None = None
    """camel | human | mouse | rabbit | rat | rhesus: what the model's own head should see."""
    weights: tuple[str, ...] = ()
    """Weights of the targets, 1 unless given: charge=2 liabilities=0.5."""
    ph: float = 7.4
    """pH of the net charge."""
    window: int = 9
    """Residues in a hydrophobic patch."""
    liability_kinds: tuple[str, ...] = LIABILITIES
    """Which liabilities count."""
    estimator: tuple[str, ...] = ("exact_redge:t1=0.7,num_noises=4",)
    """Estimators, each with hyperparameters if wanted."""
    rivals: tuple[str, ...] = ("unguided",)
    """Other methods: unguided best_of_n svdd svdd_direct smc aps entrgi."""
    kl_weights: tuple[float, ...] = (1.0,)
    """Weights of the KL to the prior, for methods that optimise logits; low follows the targets."""
    reward_weights: tuple[float, ...] = (1.0,)
    """Weights of the reward, for svdd and smc."""
    num_designs: int = 8
    """Designs for each sequence, method, weight and seed."""
    num_rounds: int = 8
    """Rounds of unmasking."""
    num_steps: int = 20
    """Steps of Adam in a round."""
    num_samples: int = 1
    """Draws a step, for methods that optimise logits; their steps are cut to keep the evaluations."""
    lr: float = 0.3
    """Learning rate of Adam."""
    order: str = "confidence"
    """ancestral | random | confidence | halton | entropy | margin | …: which positions are filled first."""
    pll_positions: int = 8
    """Designed positions of each design that the pseudo-log-likelihood is taken over, drawn by lot; 0: all."""
    seeds: tuple[int, ...] = (0,)
    """One cell for each sequence, method, weight and seed."""
    model: Path | None = None
    """File of weights; default those of `catreparam data antiberty`."""
    precision: str = "float32"
    """float32 | bfloat16: of the model; bfloat16 is faster where the processor has it, logits change a little."""
    jobs: int = 1
    """Cells side by side, each on one thread."""
    folder: Path | None = None
    """Run folder; default runs/guide-antibody. The same command resumes there."""

    def checked(self) -> "Config":
        """This config with its sequences named, a FASTA file's too. Raises ValueError or TypeError for a bad value."""
        if self.fasta is not None and self.sequence:
            raise ValueError("give either a --sequence or a --fasta file, not both")
        sequence = self.sequence if self.fasta is None else read_fasta(self.fasta.expanduser())
        antibodies = read_antibodies(sequence, self.design)
        sequence = tuple(f"{antibody.name}={antibody.sequence}" for antibody in antibodies)
        config = dataclasses.replace(self, sequence=sequence, fasta=None)
        self.measures.checked()
        known = all(antibody.is_known for antibody in antibodies)
        if any(target.value == START for target in self.targets()) and not known:
            raise ValueError("the target `start` needs a sequence without _; name the positions by --design")
        for name in ("num_designs", "num_rounds", "num_steps", "num_samples", "jobs"):
            check_count(name, getattr(self, name))
        check_count("pll_positions", self.pll_positions, 0)
        check_number("lr", self.lr, above=0.0)
        check_choice("order", self.order, ORDERS)
        check_choice("precision", self.precision, PRECISIONS)
        for name in ("kl_weights", "reward_weights"):
            for weight in getattr(self, name):
                check_number(name, weight, least=0.0)
            check_distinct(name, getattr(self, name))
        check_seeds("seeds", self.seeds)
        for rival in self.rivals:
            check_choice("rival", rival, OTHER_METHODS)
        check_methods((*self.rivals, *self.estimator))
        return dataclasses.replace(config, estimator=check_methods(self.estimator))

    def antibodies(self) -> list[Antibody]:
        """The sequences with the positions to be designed."""
        return read_antibodies(self.sequence, self.design)

    def targets(self) -> tuple[Target, ...]:
        """What the designs should be."""
        names = ("charge", "pi", "gravy", "patch", "aromaticity", "liabilities", "chain", "species")
        return make_targets({name: getattr(self, name) for name in names}, self.weights)

    @property
    def measures(self) -> Measures:
        """How properties are measured."""
        return Measures(self.ph, self.window, self.liability_kinds)

    @property
    def methods(self) -> tuple[str, ...]:
        """Everything that is compared."""
        return (*self.rivals, *self.estimator)

    @property
    def budget(self) -> Budget:
        """What every method may spend on a design."""
        return Budget(self.num_rounds, self.num_steps)

    def run_folder(self) -> Path:
        """Where the run lives."""
        return self.folder or Path("runs/guide-antibody")

    def points(self) -> list[tuple[str, float]]:
        """Every method at every strength."""
        return [(m, s) for m in self.methods for s in strengths(m, self.kl_weights, self.reward_weights)]

    def keys(self) -> list[Record]:
        """Every cell: all methods of a seed and a sequence before the next."""
        names = [antibody.name for antibody in self.antibodies()]
        return [
            {"sequence": name, "method": method, "strength": strength, "seed": seed}
            for seed, name, (method, strength) in itertools.product(self.seeds, names, self.points())
        ]
