"""Makes the held-back puzzles of the package: `python -m catreparam.experiments.sudoku.puzzles [FOLDER]`."""

import hashlib
import sys
from pathlib import Path

from catreparam.data.sudoku import CLUES, HELD_BACK_COUNT, HELD_BACK_SEED, format_puzzle, generate_puzzles
from catreparam.report import write_atomically


def main(folder: Path) -> None:
    """Writes one file of puzzles for each level and prints their SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    for level in CLUES:
        puzzles = generate_puzzles(level, seed=HELD_BACK_SEED)
        text = "".join(f"{format_puzzle(next(puzzles))}\n" for _ in range(HELD_BACK_COUNT))
        write_atomically(folder / f"{level}.txt", text)
        print(f"{level}.txt {hashlib.sha256(text.encode()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "sudoku_puzzles"))
