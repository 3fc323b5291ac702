"""Properties of proteins that a designer names, as functions of one-hot residues: charge, hydropathy, liabilities, …

Sequences are one-hot x [*batch, L, 20], classes in the order of RESIDUES; a relaxed x is allowed. Every function is
differentiable; on hard x the first six agree with Biopython's ProtParam.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from catreparam.validation import check_count, check_number

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
Sequences = Float[Tensor, "*batch length 20"]
Values = Float[Tensor, "*batch"]

# Bjellqvist's pK values: of side chains, and of the two ends, which depend on the residue there.
BASES = {"K": 10.0, "R": 12.0, "H": 5.98}
ACIDS = {"D": 4.05, "E": 4.45, "C": 9.0, "Y": 10.0}
START = dict.fromkeys(RESIDUES, 7.5) | {"A": 7.59, "M": 7.0, "S": 6.93, "P": 8.36, "T": 6.82, "V": 7.44, "E": 7.7}
END = dict.fromkeys(RESIDUES, 3.55) | {"D": 4.55, "E": 4.75}

_SCALE = "1.8 2.5 -3.5 -3.5 2.8 -0.4 -3.2 4.5 -3.9 3.8 1.9 -3.5 -1.6 -3.5 -4.5 -0.8 -0.7 4.2 -0.9 -1.3"
HYDROPATHY = dict(zip(RESIDUES, map(float, _SCALE.split()), strict=True))  # Kyte and Doolittle 1982

# Motifs of degradation and binding: for each place the residues that count there; "^P" is any but P.
MOTIFS = {
    "glycosylation": ("N", "^P", "ST"),
    "deamidation": ("N", "GS"),
    "isomerisation": ("D", "GS"),
    "oxidation": ("MW",),
    "integrin": ("R", "G", "D"),
}
UNPAIRED = "unpaired_cysteine"
LIABILITIES = (*MOTIFS, UNPAIRED)


def net_charge(x: Sequences, ph: float = 7.4) -> Values:
    """Net charge at a pH, in elementary charges, by Henderson and Hasselbalch with Bjellqvist's pK values.

    Linear in x. Raises ValueError for a pH outside [0, 14].

    >>> round(float(net_charge(torch.eye(20)[[8, 8, 8]])), 3)  # KKK
    2.55
    """
    return _charge(x, torch.tensor(check_number("ph", ph, least=0.0, most=14.0), dtype=x.dtype, device=x.device))[0]


def isoelectric_point(x: Sequences) -> Values:
    """The pH in [0, 14] at which the net charge is zero; its gradient is that of the implicit function.

    Agrees with ProtParam, whose search ends at 4.05 and 12, to 1e-4. Cost: 28 net charges, one of them with a gradient.
    """
    with torch.no_grad():
        low = x.new_zeros(x.shape[:-2])
        high = torch.full_like(low, 14.0)
        for _ in range(26):
            middle = (low + high) / 2
            positive = _charge(x, middle)[0] > 0
            low, high = torch.where(positive, middle, low), torch.where(positive, high, middle)
        root = (low + high) / 2
        slope = _charge(x, root)[1]
    return root - _charge(x, root)[0] / slope.clamp_max(-1e-6)  # Newton's step: its gradient is the implicit one


def hydropathy(x: Sequences) -> Values:
    """Mean of Kyte and Doolittle's scale over the residues (GRAVY); high is hydrophobic."""
    return _scale(x, HYDROPATHY).mean(-1)


def hydrophobic_patch(x: Sequences, window: int = 9) -> Values:
    """The largest mean hydropathy of `window` neighbours (of the whole sequence, if it is shorter).

    Only that window has a gradient. Raises ValueError for window < 1.
    """
    size = min(check_count("window", window), x.shape[-2])
    return _scale(x, HYDROPATHY).unfold(-1, size, 1).mean(-1).amax(-1)


def aromaticity(x: Sequences) -> Values:
    """The share of phenylalanine, tryptophan and tyrosine."""
    return _any_of(x, "FWY").mean(-1)


def liability_counts(x: Sequences, kinds: tuple[str, ...] = LIABILITIES) -> Float[Tensor, "*batch kinds"]:
    """How often each of LIABILITIES occurs: products over neighbours, so that residues interact.

    `unpaired_cysteine` is 1 for an odd number of cysteines; of a relaxed x, the probability of one when residues are
    drawn independently. Raises ValueError for an unknown kind.

    >>> "".join(RESIDUES[i] for i in (11, 5, 16))
    'NGT'
    >>> liability_counts(torch.eye(20)[[11, 5, 16]], ("glycosylation", "deamidation", "oxidation")).tolist()
    [1.0, 1.0, 0.0]
    """
    for kind in kinds:
        if kind not in LIABILITIES:
            raise ValueError(f"unknown liability {kind!r}; there are {', '.join(LIABILITIES)}")
    return torch.stack([_unpaired(x) if kind == UNPAIRED else _motif(x, MOTIFS[kind]) for kind in kinds], -1)


def _charge(x: Sequences, ph: Tensor) -> tuple[Values, Values]:
    """The charge at pH [] or [*batch], and its derivative in the pH."""
    ph = ph.unsqueeze(-1)

    def at(table: dict[str, float], sign: int, counts: Tensor) -> tuple[Tensor, Tensor]:
        pks = x.new_tensor([table.get(residue, math.nan) for residue in RESIDUES])
        known = ~pks.isnan()
        charged = torch.sigmoid(sign * math.log(10) * (pks[known] - ph))
        slope = math.log(10) * charged * (1 - charged)
        return sign * (counts[..., known] * charged).sum(-1), -(counts[..., known] * slope).sum(-1)

    counts = x.sum(-2)
    parts = [at(BASES, 1, counts), at(ACIDS, -1, counts), at(START, 1, x[..., 0, :]), at(END, -1, x[..., -1, :])]
    charges, slopes = zip(*parts, strict=True)
    return torch.stack(charges).sum(0), torch.stack(slopes).sum(0)


def _scale(x: Sequences, table: dict[str, float]) -> Float[Tensor, "*batch length"]:
    return x @ x.new_tensor([table[residue] for residue in RESIDUES])


def _any_of(x: Sequences, letters: str) -> Float[Tensor, "*batch length"]:
    """The probability of one of the letters at every position; of any others after "^"."""
    among = x[..., [RESIDUES.index(letter) for letter in letters.lstrip("^")]].sum(-1)
    return x.sum(-1) - among if letters.startswith("^") else among


def _motif(x: Sequences, motif: tuple[str, ...]) -> Values:
    starts = x.shape[-2] - len(motif) + 1
    if starts < 1:
        return 0.0 * x.sum((-2, -1))
    product = _any_of(x, motif[0])[..., :starts]
    for place, letters in enumerate(motif[1:], start=1):
        product = product * _any_of(x, letters)[..., place : place + starts]
    return product.sum(-1)


def _unpaired(x: Sequences) -> Values:
    return (1 - (1 - 2 * _any_of(x, "C")).prod(-1)) / 2
