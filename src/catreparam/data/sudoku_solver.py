"""Solving, filling and digging Sudoku boards: depth-first search over bit sets, with singles propagated.

A board is a list of 81 digits, row by row, 0 for a blank. Candidates are 81 bit sets: bit d - 1 stands for digit d.
"""

import random
from collections.abc import Iterator, Sequence

Board = list[int]

CELLS = range(81)
UNITS: list[list[int]] = [
    *([9 * row + column for column in range(9)] for row in range(9)),
    *([9 * row + column for row in range(9)] for column in range(9)),
    *(
        [9 * (3 * band + i) + 3 * stack + j for i in range(3) for j in range(3)]
        for band in range(3)
        for stack in range(3)
    ),
]
PEERS: list[list[int]] = [sorted({p for unit in UNITS if cell in unit for p in unit} - {cell}) for cell in CELLS]
_UNITS_OF: list[list[list[int]]] = [
    [[p for p in unit if p != cell] for unit in UNITS if cell in unit] for cell in CELLS
]
_ALL = 0b111_111_111


def solutions(board: Sequence[int], rng: random.Random | None = None) -> Iterator[Board]:
    """Yields every completion of the board, one after the other; in random order with `rng`. None if clues clash.

    >>> sum(1 for _ in solutions([0, *solve([0] * 81)[1:]]))
    1
    """
    candidates = _candidates(board)
    if candidates is not None:
        for solved in _search(candidates, rng):
            yield [bits.bit_length() for bits in solved]


def solve(board: Sequence[int]) -> Board:
    """The first completion found. Raises ValueError if the board has none."""
    for solution in solutions(board):
        return solution
    raise ValueError("this Sudoku has no solution; check its clues")


def random_solution(rng: random.Random) -> Board:
    """A full valid board, by a randomised depth-first fill."""
    return next(solutions([0] * 81, rng))


def dig(solution: Sequence[int], num_clues: int, rng: random.Random) -> Board:
    """Blanks cells of a full board in random order while the solution stays the only one, down to `num_clues` clues.

    The result may have more clues than asked for: where no cell can be blanked the digging ends. From random boards, 24
    clues are typical for that end and 22 are rare. Cost: one search per cell, about a tenth of a second in all.

    >>> sum(digit > 0 for digit in dig(solve([0] * 81), 40, random.Random(0)))
    40
    """
    board, left = list(solution), 81
    for cell in rng.sample(CELLS, 81):
        if left == num_clues:
            break
        digit, board[cell] = board[cell], 0
        if _has_other_digit(board, cell, digit):
            board[cell] = digit
        else:
            left -= 1
    return board


def _has_other_digit(board: Board, cell: int, digit: int) -> bool:
    """Whether a completion exists that has another digit in this blank cell."""
    seen = {board[peer] for peer in PEERS[cell]}
    if all(other in seen for other in range(1, 10) if other != digit):
        return False  # the peers alone force the digit
    candidates = _candidates(board)
    if candidates is None or not _eliminate(candidates, cell, 1 << digit - 1):
        return False
    return next(_search(candidates, None), None) is not None


def _candidates(board: Sequence[int]) -> list[int] | None:
    """Candidates of every cell after propagating the clues, None if they contradict each other."""
    candidates = [_ALL] * 81
    for cell, digit in enumerate(board):
        if digit and not _assign(candidates, cell, 1 << digit - 1):
            return None
    return candidates


def _search(candidates: list[int], rng: random.Random | None) -> Iterator[list[int]]:
    """Branches on a cell with fewest candidates."""
    fewest, branch = 10, -1
    order = CELLS if rng is None else rng.sample(CELLS, 81)
    for cell in order:
        count = candidates[cell].bit_count()
        if 1 < count < fewest:
            fewest, branch = count, cell
            if count == 2:
                break
    if branch < 0:
        yield candidates
        return
    bits = [1 << i for i in range(9) if candidates[branch] >> i & 1]
    for bit in bits if rng is None else rng.sample(bits, len(bits)):
        copy = candidates.copy()
        if _assign(copy, branch, bit):
            yield from _search(copy, rng)


def _assign(candidates: list[int], cell: int, bit: int) -> bool:
    if not candidates[cell] & bit:
        return False
    others = candidates[cell] & ~bit
    return not others or _eliminate(candidates, cell, others)


def _eliminate(candidates: list[int], cell: int, bits: int) -> bool:
    """Takes digits away from a cell and follows up naked and hidden singles. False on a contradiction."""
    queue = [(cell, bits)]
    while queue:
        cell, bits = queue.pop()
        gone = candidates[cell] & bits
        if not gone:
            continue
        left = candidates[cell] & ~gone
        candidates[cell] = left
        if not left:
            return False
        if not left & (left - 1):  # one digit is left: no peer has it
            queue.extend((peer, left) for peer in PEERS[cell] if candidates[peer] & left)
        for unit in _UNITS_OF[cell]:
            once = twice = 0
            for peer in unit:
                twice |= once & candidates[peer]
                once |= candidates[peer]
            if gone & ~once:
                return False  # a digit has no place left in this unit
            for peer in unit if gone & ~twice else ():
                only = candidates[peer] & gone & ~twice
                if only and candidates[peer] != only:  # a digit has one place left
                    if only & (only - 1):
                        return False
                    queue.append((peer, candidates[peer] & ~only))
    return True
