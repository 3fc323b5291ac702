"""`catreparam guide`: image tokens guided by a reward; digits, MaskGIT, and the training of their networks."""
