"""Solve Sudoku by gradients through categorical digits, with and without a masked-diffusion prior.

Without arguments: tables of estimators against priors on held-back puzzles, with 95 % intervals. With --puzzle: one board,
shown live as it is solved. Priors: `untrained`, `short`, `medium` and `long` are shipped (`catreparam run sudoku-prior` trains
them); `none` optimises logits from zero with the clues fixed, and `none_excluded` also forbids digits that a clue in the same
row, column or box already holds. The rows `unguided` and `unguided_argmax` are the prior alone.
"""

import dataclasses
import itertools
import math
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from torch import Generator, Tensor

from catreparam.data.sudoku import CLUES, HELD_BACK_COUNT, held_back_puzzles
from catreparam.data.sudoku_solver import solve
from catreparam.experiments.runs.cells import run_cells
from catreparam.experiments.runs.configs import command_of, config_of_folder
from catreparam.experiments.runs.estimator_specs import normalise_specs, try_estimator
from catreparam.experiments.runs.finish import finish
from catreparam.experiments.runs.folder import Record, RunFolder
from catreparam.experiments.runs.streams import stream
from catreparam.experiments.sudoku.board import boards_to_tensor
from catreparam.experiments.sudoku.priors import PRIORS, load_prior
from catreparam.experiments.sudoku.report import plots_of, table_of
from catreparam.experiments.sudoku.solving import (
    UNGUIDED,
    Settings,
    Solved,
    count_violations,
    solve_in_attempts,
    solve_with_prior,
    solve_without_prior,
)
from catreparam.report import Report
from catreparam.validation import check_choice, check_count, check_number

FREE = {"none": "no prior", "none_excluded": "no prior, digits of peers' clues excluded"}
CHUNK = 100  # puzzles solved together
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
    """One puzzle to solve and show: 81 characters, row by row, `.` or 0 for a blank. Takes the first prior and estimator."""
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
    jobs: int = 1
    """Cells of the table side by side, each on one thread."""
    folder: Path | None = None
    """Run folder; default runs/sudoku. The same command resumes there."""

    def checked(self) -> "Config":
        """This config with estimators in one spelling. Raises ValueError or TypeError naming the bad value."""
        for name in (
            "num_puzzles",
            "num_rounds",
            "num_steps",
            "free_steps",
            "num_samples",
            "free_samples",
            "restarts",
            "jobs",
        ):
            check_count(name, getattr(self, name))
        if self.num_puzzles > HELD_BACK_COUNT:
            raise ValueError(f"num_puzzles must be at most {HELD_BACK_COUNT}, got {self.num_puzzles}")
        for name in ("lr", "free_lr"):
            check_number(name, getattr(self, name), above=0.0)
        check_number("kl_weight", self.kl_weight, least=0.0)
        check_choice("order", self.order, ("confidence", "ancestral"))
        check_choice("commit", self.commit, ("argmax", "sample", "best"))
        if not self.priors or not self.levels:
            raise ValueError("priors and levels must name at least one value each")
        for level in self.levels:
            check_choice("level", level, CLUES)
        for prior in self.priors:
            if prior not in FREE and not prior.endswith(".safetensors"):
                check_choice("prior", prior, (*FREE, *PRIORS))
            elif prior not in FREE:
                load_prior(prior)
        estimators = normalise_specs(self.estimators)
        for spec in estimators:
            try_estimator(spec, (81, 9), num_samples=min(self.num_samples, self.free_samples))
        return dataclasses.replace(self, estimators=estimators)

    def settings(self) -> Settings:
        """The part that the solving needs."""
        return Settings(
            rounds=self.num_rounds,
            steps=self.num_steps,
            lr=self.lr,
            kl_weight=self.kl_weight,
            order=self.order,
            commit=self.commit,
            free_steps=self.free_steps,
            free_lr=self.free_lr,
            num_samples=self.num_samples,
            free_samples=self.free_samples,
            stop_when_solved=bool(self.puzzle),
        )

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
        num_puzzles=20,
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


def run(config: Config) -> Report:
    """Measures the cells that are missing, writes the report and returns it; or solves --puzzle and shows it."""
    config = config.checked()
    if config.puzzle:
        from catreparam.experiments.sudoku.live import solve_live

        return solve_live(config)
    with run_cells("sudoku", config, config.keys(), measure, config.folder or Path("runs/sudoku")) as folder:
        return _write_report(config, folder)


def report_folder(path: Path) -> Report:
    """Writes the report of a run folder anew and returns it. Solves nothing."""
    config, folder = config_of_folder(Config, path)
    return _write_report(config.checked(), folder)


def measure(config: Config, level: str, prior: str, method: str) -> Record:
    """One cell: a method with a prior on the held-back puzzles of a level."""
    puzzles = held_back_puzzles(level, config.num_puzzles)
    solutions = boards_to_tensor([solve(puzzle) for puzzle in puzzles])
    chunks = boards_to_tensor(puzzles).split(CHUNK)
    generator = stream(config.seed, f"sudoku {level} {prior} {method}")
    began = time.thread_time()
    solved = [_solve(config, chunk, prior, method, generator) for chunk in chunks]
    seconds = time.thread_time() - began
    last, argmax, best = (
        [board for part in solved for board in getattr(part, name).tolist()] for name in ("last", "argmax", "best")
    )
    counts = {name: count_violations(boards_to_tensor(boards)).tolist() for name, boards in _named(last, argmax, best)}
    spread = stdev(counts["last"]) if len(last) > 1 else 0.0
    weights = [len(chunk) / len(puzzles) for chunk in chunks]
    attempts = sum(w * part.attempts for w, part in zip(weights, solved, strict=True))
    return {
        "n": len(puzzles),
        "exact": int((boards_to_tensor(last) == solutions).all(-1).sum()),
        **{f"solved_{name}": sum(count == 0 for count in counts[name]) for name in counts},
        "violations": fmean(counts["last"]),
        "violations_half": 1.96 * spread / math.sqrt(len(last)),
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


def _named(last: list, argmax: list, best: list) -> list[tuple[str, list]]:
    return [("last", last), ("argmax", argmax), ("best", best)]


def _solve(config: Config, puzzles: Tensor, prior: str, method: str, generator: Generator) -> Solved:
    settings = config.settings()
    if prior in FREE:
        excluded = prior == "none_excluded"
        return solve_in_attempts(
            lambda left: solve_without_prior(left, method, settings, exclude_peers=excluded, generator=generator),
            puzzles,
            config.restarts,
        )
    model = load_prior(prior)
    most = 1 if method == "unguided_argmax" and config.order == "confidence" else config.attempts  # nothing is random
    return solve_in_attempts(
        lambda left: solve_with_prior(left, model, method, settings, generator=generator), puzzles, most
    )


def _write_report(config: Config, folder: RunFolder) -> Report:
    records, keys = folder.read_metrics(), config.keys()
    names = {prior: FREE.get(prior, f"prior {prior}") for prior in config.priors}
    missing = len(keys) - len(records)
    order = {tuple(key.values()): place for place, key in enumerate(keys)}
    records.sort(key=lambda r: order[r["level"], r["prior"], r["method"]])
    report = Report(
        title="Sudoku by gradients",
        summary=f"{config.num_puzzles} held-back puzzles of each level. With prior: {config.num_rounds} rounds of "
        f"{config.num_steps} steps, order {config.order}. Without: {config.free_steps} steps, {config.restarts} attempts.",
        table=table_of(records, {level: CLUES[level] for level in config.levels}, names),
        plots=plots_of(records, config.levels, names),
        facts={"machine": folder.machine, "seed": str(config.seed)},
        command=command_of("catreparam run sudoku", config),
    )
    return finish(folder, report, unfinished=f"{missing} of {len(keys)} cells" if missing else "")
