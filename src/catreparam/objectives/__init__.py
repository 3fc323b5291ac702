"""What is optimised, as pure functions of one-hot x: a loss per example. None of them knows an estimator."""
