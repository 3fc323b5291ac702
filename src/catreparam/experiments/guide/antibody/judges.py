"""Judges of designs that nothing optimised: the prior itself, ProtParam, anarcii, identity and diversity."""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Generator, Tensor

from catreparam.experiments.guide.antibody.inputs import OPEN, Antibody
from catreparam.models.antiberty import AntiBERTy
from catreparam.objectives.residues import RESIDUES

Scores = dict[str, list[float | None]]
BATCH = 16  # sequences that the model sees at a time
JUDGES = {"Bio": "biopython", "anarcii": "anarcii"}  # modules, and the packages that have them


def judge(
    designs: list[str], antibody: Antibody, model: AntiBERTy, *, ph: float, pll_positions: int, generator: Generator
) -> Scores:
    """What each judge says of each design; None where a judge is not installed, or has nothing to compare with.

    instability: ProtParam's index, above 40 unstable. pll: mean log-probability of designed residues, each hidden in
    turn. numbered: 1 if anarcii numbers it as an antibody, of the start's chain where that is known. identity: share of
    designed positions that are as before.
    """
    tokens = torch.tensor([[RESIDUES.index(letter) for letter in design] for design in designs])
    pll = pseudo_log_likelihood(model, tokens, antibody.positions, pll_positions, generator)
    return {
        "pll": pll.tolist(),
        "identity": [identity(design, antibody) for design in designs],
        "numbered": numbered(designs, antibody),
        **protparam(designs, ph),
    }


@torch.no_grad()
def pseudo_log_likelihood(
    model: AntiBERTy, tokens: Tensor, positions: Sequence[int], count: int, generator: Generator
) -> Tensor:
    """Mean log-probability [B] in nats of the residues at `count` of the positions (0: all), each hidden in turn.

    Which positions is drawn by lot for each design, so that the mean over designs is that over all positions.
    """
    count = min(count or len(positions), len(positions))
    order = torch.rand(len(tokens), len(positions), generator=generator).argsort(-1)[:, :count]
    places = torch.tensor(positions)[order].flatten()  # [B * count]
    rows = tokens.repeat_interleave(count, 0)
    hidden = rows.scatter(1, places[:, None], model.mask_token)
    logits = torch.cat([model(part) for part in hidden.split(BATCH)])
    index = torch.arange(len(rows))
    log_probs = logits[index, places].float().log_softmax(-1)[index, rows[index, places]]
    return log_probs.unflatten(0, (len(tokens), count)).mean(-1)


def identity(design: str, antibody: Antibody) -> float | None:
    """The share of designed positions that are as before; None where nothing is known of them."""
    pairs = [(antibody.sequence[place], design[place]) for place in antibody.positions]
    known = [before == after for before, after in pairs if before != OPEN]
    return sum(known) / len(known) if known else None


def diversity(designs: Sequence[str], positions: Sequence[int]) -> float | None:
    """Mean share of designed positions in which two designs differ; None for a single design."""
    rows = [[design[place] for place in positions] for design in designs]
    pairs = [(a, b) for index, a in enumerate(rows) for b in rows[:index]]
    if not pairs:
        return None
    return sum(x != y for a, b in pairs for x, y in zip(a, b, strict=True)) / (len(pairs) * len(positions))


def protparam(designs: list[str], ph: float) -> Scores:
    """Biopython's instability index, charge, isoelectric point and GRAVY; None without Biopython."""
    names = ("instability", "protparam_charge", "protparam_pi", "protparam_gravy")
    if importlib.util.find_spec("Bio") is None:
        return {name: [None] * len(designs) for name in names}
    from Bio.SeqUtils.ProtParam import ProteinAnalysis  # type: ignore[import-not-found]

    found = [ProteinAnalysis(design) for design in designs]
    rows = [(p.instability_index(), p.charge_at_pH(ph), p.isoelectric_point(), p.gravy()) for p in found]
    return {name: [float(row[place]) for row in rows] for place, name in enumerate(names)}


def numbered(designs: list[str], antibody: Antibody) -> list[float | None]:
    """1 where anarcii numbers a design as an antibody chain, of the start's kind; None without anarcii."""
    if importlib.util.find_spec("anarcii") is None:
        return [None] * len(designs)
    start = [antibody.sequence] if antibody.is_known else []
    chains = _chains([*start, *designs])
    wanted = {chains[0]} if start and chains[0] else {"H", "K", "L"}
    return [float(chain in wanted) for chain in chains[len(start) :]]


def _chains(sequences: list[str]) -> list[str | None]:
    """anarcii's kind of chain (H, K or L), None where it finds no antibody."""
    threads = torch.get_num_threads()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        found = _anarcii().number({str(index): sequence for index, sequence in enumerate(sequences)})
    torch.set_num_threads(threads)  # it sets them for the whole process
    results = [found[str(index)] for index in range(len(sequences))]
    return [None if result["error"] else str(result["chain_type"]) for result in results]


@lru_cache(maxsize=1)
def _anarcii() -> Any:
    from anarcii import Anarcii  # type: ignore[import-not-found]

    return Anarcii(seq_type="antibody", mode="speed", batch_size=BATCH, cpu=True, ncpu=torch.get_num_threads())


def missing_judges() -> list[str]:
    """Packages whose judges are not installed."""
    return [package for module, package in JUDGES.items() if importlib.util.find_spec(module) is None]
