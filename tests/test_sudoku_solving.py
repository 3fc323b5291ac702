"""Solving boards with and without prior, the study's cells, and what the command line answers."""

import dataclasses
import random

import pytest
import torch

from catreparam.cli import main
from catreparam.data.sudoku import format_puzzle, held_back_puzzles
from catreparam.data.sudoku_solver import dig, solve
from catreparam.experiments.sudoku import study as sudoku
from catreparam.experiments.sudoku.board import board_panel, board_text, boards_to_tensor
from catreparam.experiments.sudoku.config import Config
from catreparam.experiments.sudoku.priors import load_prior
from catreparam.experiments.sudoku.solving import (
    Best,
    Solved,
    count_violations,
    solve_in_attempts,
    solve_with_prior,
    solve_without_prior,
)
from catreparam.guidance import Evaluations
from catreparam.objectives.sudoku import allowed_digits

FAST = Config(num_rounds=4, num_steps=5, free_steps=60)
TINY = {"num_puzzles": 2, "estimators": ("redge:t1=0.9",), "levels": ("easy",), "num_rounds": 3, "num_steps": 2}


def boards(level: str, count: int) -> torch.Tensor:
    return boards_to_tensor(held_back_puzzles(level, count))


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("excluded", [True, False])
def test_clues_stay_and_excluded_digits_never_appear_without_prior(excluded):
    puzzles = boards("hard", 3)
    solved = solve_without_prior(puzzles, "redge", FAST, exclude_peers=excluded, generator=stream())
    for found in (solved.last, solved.argmax, solved.best):
        assert torch.equal(found[puzzles > 0], puzzles[puzzles > 0])
    if excluded:
        allowed = allowed_digits(puzzles)
        assert bool(allowed.gather(-1, (solved.last - 1)[..., None]).all())


def test_gradients_alone_solve_easy_puzzles():
    puzzles = boards("easy", 6)
    config = dataclasses.replace(FAST, free_steps=400)
    solved = solve_without_prior(puzzles, "redge:t1=0.9", config, exclude_peers=True, generator=stream())
    solutions = boards_to_tensor([solve(puzzle) for puzzle in puzzles.tolist()])
    assert int((solved.argmax == solutions).all(-1).sum()) >= 4
    assert bool((count_violations(solved.best) <= count_violations(solved.argmax)).all())


def test_the_shipped_prior_solves_easy_puzzles_with_guidance_and_keeps_the_clues():
    puzzles = boards("easy", 6)
    config = Config(num_rounds=10, num_steps=10, num_samples=1)
    solved = solve_with_prior(puzzles, load_prior("long"), "redge:t1=0.9", config, generator=stream())
    solutions = boards_to_tensor([solve(puzzle) for puzzle in puzzles.tolist()])
    assert int((solved.last == solutions).all(-1).sum()) >= 5
    assert torch.equal(solved.last[puzzles > 0], puzzles[puzzles > 0])
    assert (solved.evaluations.model, solved.evaluations.reward) == (10, 101)


def test_unguided_rounds_evaluate_the_prior_only_and_repeat_by_seed():
    puzzles, model = boards("easy", 2), load_prior("untrained")
    runs = [solve_with_prior(puzzles, model, "unguided", FAST, generator=stream(seed)) for seed in (0, 0, 1)]
    assert torch.equal(runs[0].last, runs[1].last)
    assert not torch.equal(runs[0].last, runs[2].last)
    assert (runs[0].evaluations.model, runs[0].evaluations.reward_gradient) == (4, 0)


def test_best_keeps_the_board_with_fewest_violations():
    solution = boards_to_tensor([solve([0] * 81)])
    best = Best.of(torch.zeros_like(solution))
    best.look(0, torch.ones_like(solution))
    best.look(1, solution)
    best.look(2, torch.ones_like(solution))
    assert torch.equal(best.boards, solution)
    assert best.curve == [(0, 216.0), (1, 0.0), (2, 216.0)]


def test_boards_are_shown_as_text_and_in_colour():
    puzzle = held_back_puzzles("hard", 1)[0]
    digits = "".join(symbol for symbol in board_text(puzzle, puzzle) if symbol in "123456789.")
    assert digits == format_puzzle(puzzle)
    wrong = [*puzzle[:80], 0]
    wrong[next(cell for cell in range(9) if not puzzle[cell])] = next(digit for digit in puzzle[:9] if digit)
    styles = {str(span.style) for span in board_panel(wrong, solve(puzzle), puzzle, "a title").renderable.spans}
    assert {"bold", "bold red", "red", "dim"} <= styles


def test_study_measures_every_cell_once_and_resumes_where_it_was_killed(tmp_path, monkeypatch):
    config = sudoku.Config(**TINY, priors=("untrained", "none_excluded"), free_steps=5, folder=tmp_path)
    first = sudoku.run(config)
    assert len(first.table.rows) == 4  # unguided twice, guided, and without prior
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    measured = []
    real = sudoku.solver
    monkeypatch.setattr(sudoku, "solver", lambda *args, **more: (measured.append(args[1]), real(*args, **more))[1])
    second = sudoku.run(config)
    assert measured == ["none_excluded"]
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in r.table.rows] for r in (first, second)]
    assert timeless[0] == timeless[1]
    assert not second.warning
    assert (tmp_path / "report.html").read_text().count("<svg") == 2


def test_puzzle_on_the_command_line_is_solved_and_printed(capsys):
    solution = solve([0] * 81)
    puzzle = dig(solution, 60, random.Random(0))
    words = ["run", "sudoku", "--puzzle", format_puzzle(puzzle), "--num-rounds", "5", "--num-steps", "5"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "# Solved" in printed
    assert board_text(solution, puzzle) in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--puzzle", "12"], "a puzzle has 81 cells, got 2"),
        (["--puzzle", "a" * 81], "character 1 of the puzzle is 'a'"),
        (["--puzzle", "11" + "." * 79], "1 stands both in row 1 column 1 and in row 1 column 2"),
        (["--puzzle", "12345678." + "." * 8 + "9" + "." * 63], "this Sudoku has no solution"),
        (["--priors", "lnog"], "unknown prior 'lnog'. Did you mean 'long'?"),
        (["--priors", "missing.safetensors"], "there are no weights at missing.safetensors"),
        (["--levels", "hrad"], "unknown level 'hrad'. Did you mean 'hard'?"),
        (["--num-puzzles", "1001"], "num_puzzles must be at most 1000, got 1001"),
        (["--estimators", "redgee"], "unknown estimator 'redgee'"),
        (["--estimators", "rloo"], "num_samples"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(words, message, capsys):
    assert main(["run", "sudoku", *words]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert message in errors[0]


def test_unsolved_puzzles_are_tried_again_and_the_best_board_is_kept():
    solution = boards_to_tensor([solve([0] * 81)])
    wrong = torch.ones_like(solution)
    asked = []

    def attempt(puzzles: torch.Tensor) -> Solved:
        asked.append(puzzles[:, 0].tolist())
        found = torch.stack([(solution if place < len(asked) else wrong)[0] for place in puzzles[:, 0].tolist()])
        return Solved(found, found, found, [(len(asked), 0.0)], Evaluations(model=1))

    puzzles = torch.arange(4)[:, None].expand(4, 81)  # puzzle i is solved in attempt i + 1
    solved = solve_in_attempts(attempt, puzzles, 3)
    assert asked == [[0, 1, 2, 3], [1, 2, 3], [2, 3]]
    assert count_violations(solved.best).tolist() == [0, 0, 0, 216]
    assert count_violations(solved.last).tolist() == [0, 216, 216, 216]
    assert solved.attempts == 9 / 4
    assert solved.curve == [(1, 0.0)]
