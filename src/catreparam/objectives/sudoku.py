"""Sudoku as an objective: how far the digits of rows, columns and boxes are from appearing once each.

Boards are one-hot x [B, 81, 9], cell 9 * row + column, class digit - 1. A relaxed x is allowed: counts are sums.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Boards = Float[Tensor, "*batch 81 9"]


def unit_counts(x: Boards) -> Float[Tensor, "*batch 27 9"]:
    """How often every digit appears in each of the 9 rows, 9 columns and 9 boxes."""
    grid = x.unflatten(-2, (9, 9))  # [*batch, row, column, digit]
    boxes = x.unflatten(-2, (3, 3, 3, 3)).sum((-4, -2))  # [*batch, band, stack, digit]
    return torch.cat([grid.sum(-2), grid.sum(-3), boxes.flatten(-3, -2)], -2)


def sudoku_penalty(x: Boards) -> Float[Tensor, "*batch"]:
    """Sum over the 27 units and 9 digits of (count - 1)^2: 0 for a solved board and positive for any other.

    Its gradient at a cell and digit is 2 (count - 1), summed over the three units of the cell.

    >>> sudoku_penalty(torch.full((1, 81, 9), 1 / 9)).item() < 1e-9
    True
    """
    return (unit_counts(x) - 1).square().sum((-2, -1))


def violations(x: Boards) -> Int[Tensor, "*batch"]:
    """The number of digits missing from a row, column or box, over the 27 units of a one-hot board; at most 216."""
    return (unit_counts(x.round()) < 0.5).sum((-2, -1))


def allowed_digits(puzzle: Int[Tensor, "*batch 81"], *, exclude_peers: bool = True) -> Bool[Tensor, "*batch 81 9"]:
    """The digits that a cell may take: its clue only, any for a blank; with `exclude_peers` none of its peers' clues.

    `puzzle` holds 0 for a blank. Raises ValueError, naming the cell, where the clues leave none: such a puzzle has no
    solution.

    >>> allowed_digits(torch.tensor([1] + [0] * 80)).sum().item()
    701
    """
    clues = (puzzle.unsqueeze(-1) == torch.arange(1, 10, device=puzzle.device)).float()  # [*batch, 81, 9]
    given = clues.sum(-1, keepdim=True) > 0
    allowed = torch.where(given, clues > 0, True)
    if exclude_peers:
        counts = unit_counts(clues)  # [*batch, 27, 9]
        rows, columns, boxes = counts.split(9, -2)
        in_box = boxes.unflatten(-2, (3, 3)).repeat_interleave(3, -3).repeat_interleave(3, -2)  # [*batch, 9, 9, 9]
        seen = rows.unsqueeze(-2) + columns.unsqueeze(-3) + in_box
        allowed = torch.where(given, allowed, seen.flatten(-3, -2) == 0)
    if not bool(allowed.any(-1).all()):
        cell = int((~allowed.any(-1)).nonzero()[0, -1])
        raise ValueError(
            f"no digit is possible in row {cell // 9 + 1} column {cell % 9 + 1}: "
            "this Sudoku has no solution; check its clues"
        )
    return allowed
