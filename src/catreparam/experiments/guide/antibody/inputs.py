"""What a user gives: sequences on the command line or in FASTA, and which of their positions are to be designed."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from catreparam.models.antiberty import MAX_LENGTH, NUM_RESIDUES
from catreparam.objectives.residues import RESIDUES

OPEN = "_"  # a position to be designed, in a sequence


@dataclass(frozen=True)
class Antibody:
    """A sequence before design, and the positions to be designed, from 0.

    Where the sequence has `_` at one of them, nothing is known about it.
    """

    name: str
    sequence: str
    positions: tuple[int, ...]

    @property
    def is_known(self) -> bool:
        """Whether the sequence has a residue everywhere, so that designs can be compared with it."""
        return OPEN not in self.sequence

    def tokens(self) -> Tensor:
        """Tokens [L], masked where a residue is to be designed."""
        letters = ["" if place in self.positions else letter for place, letter in enumerate(self.sequence)]
        return torch.tensor([RESIDUES.index(letter) if letter else NUM_RESIDUES for letter in letters])


def read_antibodies(sequences: tuple[str, ...], designs: tuple[str, ...]) -> list[Antibody]:
    """Antibodies from `NAME=SEQUENCE` or `SEQUENCE`, and from ranges: one for all, or one for each.

    Raises ValueError naming what cannot be read, and where.
    """
    if not sequences:
        raise ValueError("give a --sequence, or a --fasta file")
    if len(designs) not in (0, 1, len(sequences)):
        raise ValueError(f"--design must be given once, or once for each of {len(sequences)} sequences")
    ranges = designs * len(sequences) if len(designs) == 1 else designs or ("",) * len(sequences)
    named = [_named(text, index) for index, text in enumerate(sequences)]
    if doubled := [name for index, (name, _) in enumerate(named) if name in [other for other, _ in named[:index]]]:
        raise ValueError(f"two sequences are called {doubled[0]!r}; give each a name of its own: NAME=SEQUENCE")
    return [_antibody(name, sequence, design) for (name, sequence), design in zip(named, ranges, strict=True)]


def read_fasta(path: Path) -> tuple[str, ...]:
    """The sequences of a FASTA file as NAME=SEQUENCE; a name is the first word of its line.

    Raises ValueError for a file that is no FASTA, FileNotFoundError when there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no FASTA file: it is not text") from error
    found: list[list[str]] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith(">"):
            name = (line[1:].split() or [f"sequence-{len(found) + 1}"])[0]
            found.append([re.sub(r"[^\w.+-]", "-", name)[:60], ""])
        elif line.strip() and not found:
            raise ValueError(
                f"{path} line {number}: a FASTA file begins with a line >NAME, found {line.strip()[:20]!r}"
            )
        elif line.strip():
            found[-1][1] += line.strip().removesuffix("*")
    if not found:
        raise ValueError(f"{path} holds no sequence")
    return tuple(f"{name}={sequence}" for name, sequence in found)


def _named(text: str, index: int) -> tuple[str, str]:
    name, equals, sequence = text.partition("=")
    if not equals:
        return f"sequence-{index + 1}", "".join(text.split()).upper()
    if not re.fullmatch(r"[\w.+-]{1,60}", name.strip()):
        raise ValueError(f"a name may hold 1 to 60 letters, digits and . _ + -, got {name.strip()!r}")
    return name.strip(), "".join(sequence.split()).upper()


def _antibody(name: str, sequence: str, design: str) -> Antibody:
    if not sequence:
        raise ValueError(f"{name} has no residues")
    for place, letter in enumerate(sequence, start=1):
        if letter not in RESIDUES and letter != OPEN:
            raise ValueError(
                f"{name}: {letter!r} at position {place} is no residue; write one of {RESIDUES}, "
                "or _ to have it designed"
            )
    if len(sequence) > MAX_LENGTH:
        raise ValueError(f"{name} has {len(sequence)} residues; AntiBERTy takes at most {MAX_LENGTH}")
    positions = _ranges(design, len(sequence), name) | {i for i, letter in enumerate(sequence) if letter == OPEN}
    if not positions:
        raise ValueError(f"{name}: nothing is to be designed; write _ in the sequence, or give --design 26-33,51-58")
    return Antibody(name, sequence, tuple(sorted(positions)))


def _ranges(text: str, length: int, name: str) -> set[int]:
    """Positions from 0 of ranges like 26-33,51 that count from 1 and include their ends."""
    positions: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        matched = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not matched:
            raise ValueError(f"cannot read the range {part!r} of --design; write it like 26-33,51-58,97")
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if not 1 <= first <= last <= length:
            raise ValueError(f"range {part} of --design does not fit {name}, whose positions are 1 to {length}")
        positions |= set(range(first - 1, last))
    return positions
