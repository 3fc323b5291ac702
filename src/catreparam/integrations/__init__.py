"""Where the estimators meet other libraries: torch.distributions, Pyro, Lightning, training loops."""
