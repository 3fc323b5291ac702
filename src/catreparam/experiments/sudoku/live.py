"""One puzzle, shown as it is solved: live where a person watches, two boards as text elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from catreparam.data.sudoku import read_puzzle
from catreparam.data.sudoku_solver import solve
from catreparam.experiments.runs.configs import command_of
from catreparam.experiments.runs.streams import stream
from catreparam.experiments.sudoku.board import board_panel, board_text, boards_to_tensor
from catreparam.experiments.sudoku.config import Config
from catreparam.experiments.sudoku.solving import Watch, count_violations, solver
from catreparam.report import Column, Report, Table

COLUMNS = (
    Column("method", "estimator"),
    Column("prior", "prior"),
    Column("violations", "violations"),
    Column("attempts", "attempts side by side"),
    Column("seconds", "seconds", ".1f"),
)


def solve_live(config: Config) -> Report:
    """Solves config.puzzle with the first prior and estimator; shows the board and returns a short report.

    Raises PuzzleError for a text that is no puzzle and ValueError for one without a solution.
    """
    puzzle = read_puzzle(config.puzzle)
    solve(puzzle)  # only to tell a puzzle without solution from one that was not solved
    prior, method = config.priors[0], config.estimators[0]
    copies = max(config.attempts, config.restarts)
    puzzles = boards_to_tensor([puzzle] * copies)
    generator = stream(config.seed, "sudoku puzzle")
    began = time.perf_counter()
    with _show(puzzle) as watch:
        solved = solver(config, prior, method, generator=generator, watch=watch)(puzzles)
    seconds = time.perf_counter() - began
    count = count_violations(solved.best)
    chosen = int(count.argmin())
    print(board_text(solved.best[chosen].tolist(), puzzle))
    row = {"method": method, "prior": prior, "violations": int(count[chosen]), "attempts": copies}
    return Report(
        title="Solved" if row["violations"] == 0 else "Not solved",
        summary=f"{sum(digit > 0 for digit in puzzle)} clues.",
        table=Table(COLUMNS, [row | {"seconds": seconds}]),
        command=command_of("catreparam run sudoku", config),
        warning="" if row["violations"] == 0 else "Try more --restarts, more --num-rounds or another --seed.",
    )


@contextmanager
def _show(puzzle: list[int]) -> Iterator[Watch | None]:
    if not sys.stdout.isatty():
        print(board_text(puzzle, puzzle), end="\n\n")
        yield None
        return
    from rich.live import Live

    with Live(auto_refresh=False, transient=True) as live:

        def watch(done: int, total: int, boards: Tensor, proposals: Tensor) -> None:
            count = count_violations(proposals)
            chosen = int(count.argmin())
            title = f"{done} of {total} · {int(count[chosen])} violations"
            live.update(board_panel(boards[chosen].tolist(), proposals[chosen].tolist(), puzzle, title), refresh=True)

        yield watch
