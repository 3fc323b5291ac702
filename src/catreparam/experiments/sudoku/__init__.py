"""`catreparam run sudoku`, `run sudoku-prior`: boards by gradients, with or without prior. Imports no other study."""
