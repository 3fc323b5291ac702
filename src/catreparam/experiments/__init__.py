"""Where an estimator meets an objective: one file each, a frozen Config on top, then run(config) -> Report."""
