"""Sudoku boards: many as one tensor, one as text or as a panel on the terminal."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def boards_to_tensor(boards: Sequence[Sequence[int]]) -> Int[Tensor, "n 81"]:
    """Boards as one tensor of digits, 0 for blanks."""
    return torch.tensor(boards, dtype=torch.long).reshape(-1, 81)


def board_text(board: Sequence[int], puzzle: Sequence[int]) -> str:
    """Nine lines with rules between the boxes; blanks are dots.

    >>> print(board_text([1, 2] + [0] * 79, [1] + [0] * 80).split("\\n")[0])
     1  2  . │ .  .  . │ .  .  .
    """
    lines = []
    for row in range(9):
        cells = [str(digit) if digit else "." for digit in board[9 * row : 9 * row + 9]]
        lines.append("│".join(" " + "  ".join(cells[stack : stack + 3]) + " " for stack in (0, 3, 6)).rstrip())
        if row in (2, 5):
            lines.append("┼".join(["─" * 9] * 3))
    return "\n".join(lines)


def board_panel(board: Sequence[int], proposal: Sequence[int], puzzle: Sequence[int], title: str):
    """A rich panel: clues bold, settled digits green, digits that are only proposed yet dim, clashes red."""
    from rich.panel import Panel
    from rich.text import Text

    from catreparam.data.sudoku_solver import PEERS

    text = Text()
    shown = [settled or proposed for settled, proposed in zip(board, proposal, strict=True)]
    for cell, digit in enumerate(shown):
        clash = any(shown[peer] == digit for peer in PEERS[cell])
        style = "bold" if puzzle[cell] else "red" if clash else "green" if board[cell] else "dim"
        text.append(f" {digit if digit else '.'} ", style="bold red" if clash and puzzle[cell] else style)
        row, column = divmod(cell, 9)
        if column in (2, 5):
            text.append("│")
        if column == 8 and cell < 80:
            text.append("\n" + ("┼".join(["─" * 9] * 3) + "\n" if row in (2, 5) else ""))
    return Panel(text, title=title, expand=False)
