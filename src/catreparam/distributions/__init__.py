"""torch.distributions with gradients through discrete samples; they work in Pyro too."""

from catreparam.distributions import divergences as divergences  # registers the KL divergences
from catreparam.distributions.bernoulli import ReparameterizedBernoulli
from catreparam.distributions.categorical import ReparameterizedCategorical

__all__ = ["ReparameterizedBernoulli", "ReparameterizedCategorical"]
