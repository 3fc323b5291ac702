"""`catreparam sweep`: every estimator tuned by the same budget, then compared at its best settings."""
