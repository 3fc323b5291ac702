"""torch.distributions with gradients through discrete samples, also in Pyro. Imports estimators, categorical."""

from catreparam.distributions.bernoulli import ReparameterizedBernoulli
from catreparam.distributions.categorical import ReparameterizedCategorical

__all__ = ["ReparameterizedBernoulli", "ReparameterizedCategorical"]
