"""What is minimised: pure functions, one-hot x -> loss. Imports categorical and validation alone, no estimator."""
