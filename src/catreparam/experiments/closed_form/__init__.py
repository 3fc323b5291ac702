"""`catreparam run polynomial` and `run gmm`: studies whose expected loss is known in closed form."""
