"""`catreparam measure` and `tune`: bias, variance and cost of estimators on an objective."""
