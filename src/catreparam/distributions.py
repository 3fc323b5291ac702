"""torch.distributions with gradients through discrete samples; they work in Pyro too."""

from catreparam.integrations import divergences as divergences  # registers the KL divergences
from catreparam.integrations.bernoulli_distribution import ReparameterizedBernoulli
from catreparam.integrations.categorical_distribution import ReparameterizedCategorical

__all__ = ["ReparameterizedBernoulli", "ReparameterizedCategorical"]
