"""Puzzles: reading, solving, digging, the held-back files, and the errors for texts that are no puzzle."""

import random

import pytest

from catreparam.data import DamagedData, sudoku
from catreparam.data.sudoku import (
    CLUES,
    PuzzleError,
    check_no_overlap,
    format_puzzle,
    generate_puzzles,
    held_back_puzzles,
    read_puzzle,
    relabelled,
)
from catreparam.data.sudoku_solver import PEERS, UNITS, dig, random_solution, solutions, solve

# Made by hand from the cyclic pattern: row r is the pattern 1..9 moved by 3 r + r // 3 places.
PATTERN = [(3 * row + row // 3 + column) % 9 + 1 for row in range(9) for column in range(9)]


def brute_force_count(board: list[int], limit: int = 3) -> int:
    """Completions, counted by plain backtracking without any propagation, up to `limit`."""
    if 0 not in board:
        return 1
    cell, count = board.index(0), 0
    for digit in range(1, 10):
        if all(board[peer] != digit for peer in PEERS[cell]):
            count += brute_force_count([*board[:cell], digit, *board[cell + 1 :]], limit)
            if count >= limit:
                break
    return min(count, limit)


def test_random_solutions_hold_every_digit_once_in_every_unit():
    boards = [random_solution(random.Random(seed)) for seed in range(5)]
    assert all(sorted(board[cell] for cell in unit) == list(range(1, 10)) for board in boards for unit in UNITS)
    assert len({tuple(board) for board in boards}) == 5


@pytest.mark.parametrize("num_blanks", [4, 30, 45])
def test_solutions_finds_as_many_completions_as_plain_backtracking(num_blanks):
    for seed in range(4):
        board = list(PATTERN)
        for cell in random.Random(seed).sample(range(81), num_blanks):
            board[cell] = 0
        found = [solution for _, solution in zip(range(3), solutions(board), strict=False)]
        assert len(found) == brute_force_count(board)
        assert all(given in (0, digit) for solution in found for given, digit in zip(board, solution, strict=True))


def has_unique_solution(board) -> bool:
    return len(list(zip(range(2), solutions(board), strict=False))) == 1


def test_dug_puzzles_have_one_solution_and_minimal_ones_lose_it_with_any_clue():
    rng = random.Random(1)
    solution = random_solution(rng)
    puzzle = dig(solution, 0, rng)
    assert brute_force_count(puzzle, 2) == 1
    assert solve(puzzle) == solution
    for cell in [cell for cell in range(81) if puzzle[cell]]:
        assert not has_unique_solution([*puzzle[:cell], 0, *puzzle[cell + 1 :]])


def test_dig_stops_at_the_number_of_clues_asked_for():
    assert sum(digit > 0 for digit in dig(PATTERN, 50, random.Random(0))) == 50


@pytest.mark.parametrize("level", list(CLUES))
def test_held_back_puzzles_are_what_the_generator_makes(level):
    puzzles = held_back_puzzles(level)
    made = generate_puzzles(level, seed=sudoku.HELD_BACK_SEED)
    low, high = CLUES[level]
    assert puzzles[:3] == [next(made) for _ in range(3)]
    assert len({format_puzzle(puzzle) for puzzle in puzzles}) == 1000
    assert all(low <= sum(digit > 0 for digit in puzzle) <= high for puzzle in puzzles)
    assert all(has_unique_solution(puzzle) for puzzle in puzzles[::50])


def test_a_changed_file_of_puzzles_is_refused(monkeypatch):
    monkeypatch.setitem(sudoku.SHA256, "easy", "0" * 64)
    with pytest.raises(DamagedData, match=r"easy.txt has sha256 6ff3562e"):
        held_back_puzzles("easy", 1)


def test_overlap_is_found_up_to_the_names_of_the_digits():
    puzzle = held_back_puzzles("easy", 1)[0]
    renamed = [digit % 9 + 1 for digit in solve(puzzle)]
    assert relabelled(renamed) == relabelled(solve(puzzle))
    check_no_overlap([PATTERN], [puzzle])
    with pytest.raises(ValueError, match="training board 1 is the solution of a held-back puzzle"):
        check_no_overlap([PATTERN, renamed], [puzzle])


def test_read_puzzle_undoes_format_puzzle_and_takes_dots_zeros_and_line_breaks():
    puzzle = held_back_puzzles("hard", 1)[0]
    text = format_puzzle(puzzle)
    rows = "\n".join(text[9 * row : 9 * row + 9] for row in range(9))
    assert read_puzzle(text) == read_puzzle(text.replace(".", "0")) == read_puzzle(rows) == puzzle


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("." * 80, "81 cells, got 80"),
        ("", "81 cells, got 0"),
        ("." * 82, "81 cells, got 82"),
        ("." * 40 + "x" + "." * 40, "character 41 of the puzzle is 'x'"),
        ("." * 80 + "²", "character 81 of the puzzle is '²'"),
        ("5..5" + "." * 77, "5 stands both in row 1 column 1 and in row 1 column 4"),
        ("5" + "." * 35 + "5" + "." * 44, "5 stands both in row 1 column 1 and in row 5 column 1"),
        ("5........" + "." * 9 + "..5......" + "." * 54, "5 stands both in row 1 column 1 and in row 3 column 3"),
    ],
)
def test_a_text_that_is_no_puzzle_gives_one_clear_error(text, message):
    with pytest.raises(PuzzleError, match=message):
        read_puzzle(text)


def test_a_board_without_completion_is_an_error():
    board = [*range(1, 9), 0, *[0] * 72]
    board[17] = 9  # the ninth cell of the first row would have to be 9, which its box already has
    with pytest.raises(ValueError, match="no solution"):
        solve(board)
