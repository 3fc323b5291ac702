"""`catreparam run sudoku` and `run sudoku-prior`: boards solved by gradients, with and without a prior."""
