"""The penalty against a plain count, its gradient, and the digits that clues leave."""

import pytest
import torch
from torch.nn.functional import one_hot

from catreparam.data.sudoku import held_back_puzzles
from catreparam.data.sudoku_solver import PEERS, UNITS, solve
from catreparam.objectives.sudoku import allowed_digits, sudoku_penalty, unit_counts, violations


def boards(count: int, seed: int = 0) -> torch.Tensor:
    return one_hot(torch.randint(9, (count, 81), generator=torch.Generator().manual_seed(seed)), 9).float()


def plain_counts(board: list[int]) -> list[list[int]]:
    return [[sum(board[cell] == digit for cell in unit) for digit in range(9)] for unit in UNITS]


def test_penalty_and_violations_are_those_of_a_plain_count():
    x = boards(6)
    for board, penalty, missing in zip(x.argmax(-1).tolist(), sudoku_penalty(x), violations(x), strict=True):
        counts = [count for unit in plain_counts(board) for count in unit]
        assert float(penalty) == sum((count - 1) ** 2 for count in counts)
        assert int(missing) == sum(count == 0 for count in counts)


def test_penalty_is_zero_exactly_on_solved_boards():
    solution = torch.tensor([solve(held_back_puzzles("hard", 1)[0])])
    x = one_hot(solution - 1, 9).float()
    swapped = solution.clone()
    swapped[0, [0, 1]] = solution[0, [1, 0]]
    broken = one_hot(swapped - 1, 9).float()
    assert float(sudoku_penalty(x)) == 0
    assert int(violations(x)) == 0
    assert float(sudoku_penalty(broken)) > 0
    assert int(violations(broken)) > 0


def test_gradient_is_twice_the_excess_over_the_three_units_of_a_cell():
    x = boards(2).requires_grad_()
    gradient = torch.autograd.grad(sudoku_penalty(x).sum(), x)[0]
    counts = unit_counts(x.detach())  # [2, 27, 9]
    for cell in (0, 40, 77):
        units = [place for place, unit in enumerate(UNITS) if cell in unit]
        torch.testing.assert_close(gradient[:, cell], 2 * (counts[:, units] - 1).sum(1))


def test_gradcheck_and_batch_axes():
    x = torch.rand(1, 81, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(sudoku_penalty, x)
    many = boards(6).view(2, 3, 81, 9)
    torch.testing.assert_close(sudoku_penalty(many), sudoku_penalty(many.flatten(0, 1)).view(2, 3))


def test_allowed_digits_are_the_clue_or_what_the_peers_leave():
    puzzle = torch.tensor(held_back_puzzles("hard", 2))
    allowed, plain = allowed_digits(puzzle), allowed_digits(puzzle, exclude_peers=False)
    for index, board in enumerate(puzzle.tolist()):
        for cell in range(81):
            left = {d for d in range(1, 10) if all(board[peer] != d for peer in PEERS[cell])}
            wanted = {board[cell]} if board[cell] else left
            assert {d for d in range(1, 10) if allowed[index, cell, d - 1]} == wanted
            assert int(plain[index, cell].sum()) == (1 if board[cell] else 9)


def test_a_cell_without_a_possible_digit_is_named():
    puzzle = torch.zeros(1, 81, dtype=torch.long)
    puzzle[0, :8] = torch.arange(1, 9)
    puzzle[0, 17] = 9
    with pytest.raises(ValueError, match="no digit is possible in row 1 column 9"):
        allowed_digits(puzzle)


@pytest.mark.statistical
def test_expected_penalty_is_that_of_the_mean_plus_three_times_the_gini_impurity_of_the_cells():
    """Four standard errors: fails by chance once in 16,000 seeds."""
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(81, 9, generator=generator).softmax(-1)
    draws = torch.multinomial(probs, 4000, replacement=True, generator=generator).T
    penalties = sudoku_penalty(one_hot(draws, 9).float())
    expected = sudoku_penalty(probs) + 3 * (1 - probs.square().sum(-1)).sum()
    assert abs(float(penalties.mean() - expected)) < 4 * float(penalties.std()) / 4000**0.5
