"""Solve Sudoku by gradients through categorical digits, with and without a masked-diffusion prior.

Without arguments: tables of estimators against priors on held-back puzzles, with 95 % intervals. With --puzzle: one
board, shown live as it is solved. Priors: `untrained`, `short`, `medium` and `long` are shipped (`catreparam run
sudoku-prior` trains them); `none` optimises logits from zero with the clues fixed, and `none_excluded` also forbids
digits that a clue in the same row, column or box already holds. The rows `unguided` and `unguided_argmax` are the prior
alone.
"""

import math
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from catreparam.data.sudoku import held_back_puzzles
from catreparam.data.sudoku_solver import solve
from catreparam.experiments.runs.cells import run_cells
from catreparam.experiments.runs.configs import config_of_folder
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.runs.records import Count, Number, Seconds, line
from catreparam.experiments.runs.streams import stream
from catreparam.experiments.sudoku.board import boards_to_tensor
from catreparam.experiments.sudoku.config import FREE, PRESETS, Config
from catreparam.experiments.sudoku.live import solve_live
from catreparam.experiments.sudoku.report import report_sudoku
from catreparam.experiments.sudoku.solving import count_violations, solve_in_attempts, solver
from catreparam.report import Report

__all__ = ["PRESETS", "Config", "report_folder", "run"]

CHUNK = 100  # puzzles solved together


@line
class Solved(TypedDict):
    """How a method did with a prior on the puzzles of a level: counts of puzzles, and means over them."""

    level: str
    prior: str
    method: str
    n: Annotated[int, Field(ge=1, lt=2**63)]
    exact: Count
    solved_last: Count
    solved_argmax: Count
    solved_best: Count
    violations: Number
    violations_half: Number
    violations_best: Number
    seconds: Seconds
    model: Number
    reward: Number
    curve: list[tuple[Number, Number]]


LINES = TypeAdapter(Solved)


def run(config: Config) -> Report:
    """Measures the cells that are missing, writes the report and returns it; or solves --puzzle and shows it."""
    config = config.checked()
    if config.puzzle:
        return solve_live(config)
    with run_cells("sudoku", config, config.keys(), measure, config.folder or Path("runs/sudoku"), LINES) as folder:
        return report_sudoku(config, folder)


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew and returns it. Solves nothing."""
    config, folder = config_of_folder(Config, path, LINES)
    return report_sudoku(config, folder)


def measure(config: Config, level: str, prior: str, method: str) -> Record:
    """One cell: a method with a prior on the held-back puzzles of a level."""
    puzzles = held_back_puzzles(level, config.num_puzzles)
    solutions = boards_to_tensor([solve(puzzle) for puzzle in puzzles])
    chunks = boards_to_tensor(puzzles).split(CHUNK)
    certain = method == "unguided_argmax" and config.order == "confidence"  # nothing is random
    most = config.restarts if prior in FREE else 1 if certain else config.attempts
    generator = stream(config.seed, f"sudoku {level} {prior} {method}")
    began = time.thread_time()
    solved = [solve_in_attempts(solver(config, prior, method, generator=generator), chunk, most) for chunk in chunks]
    seconds = time.thread_time() - began
    boards = {name: torch.cat([getattr(part, name) for part in solved]) for name in ("last", "argmax", "best")}
    counts = {name: count_violations(found).tolist() for name, found in boards.items()}
    spread = stdev(counts["last"]) if len(puzzles) > 1 else 0.0
    weights = [len(chunk) / len(puzzles) for chunk in chunks]
    attempts = sum(w * part.attempts for w, part in zip(weights, solved, strict=True))
    return {
        "n": len(puzzles),
        "exact": int((boards["last"] == solutions).all(-1).sum()),
        **{f"solved_{name}": sum(count == 0 for count in counts[name]) for name in counts},
        "violations": fmean(counts["last"]),
        "violations_half": 1.96 * spread / math.sqrt(len(puzzles)),
        "violations_argmax": fmean(counts["argmax"]),
        "violations_best": fmean(counts["best"]),
        "seconds": seconds / len(puzzles),
        "model": solved[0].evaluations.model * attempts,
        "reward": solved[0].evaluations.reward * attempts,
        "attempts": attempts,
        "curve": [
            (points[0][0], sum(w * y for w, (_, y) in zip(weights, points, strict=True)))
            for points in zip(*(part.curve for part in solved), strict=True)
        ],
    }
