"""Every estimator, called the same way, for the parametrised tests."""

import torch

from catreparam import ESTIMATORS, expectation, make_estimator, takes_objective
from catreparam.estimators import fewest_samples

REPARAMETERISED = [name for name, function in ESTIMATORS.items() if not takes_objective(function)]
SCORE_FUNCTION = [name for name, function in ESTIMATORS.items() if takes_objective(function)]
RELAXED = ["gumbel_softmax", "decoupled_straight_through", "gapped_straight_through", "redge", "redge_cov"]
RELAXED += ["exact_redge", "transport_redge"]
EXACT_LAW = [name for name in REPARAMETERISED if name not in ("redge", "redge_cov", "reindge")]
UNBIASED = ["exact", "reinforce", "rloo", "arsm", "rebar", "relax", "unbiased_redge"]
ALL = list(ESTIMATORS)
OUTSIDE_TRANSFORMS = ["relax", "reinmax_rloo"]  # not under torch.func and vmap, and they say so


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples_needed(name: str) -> int:
    return fewest_samples(name)


def smooth_loss(x: torch.Tensor) -> torch.Tensor:
    """[*batch, num_classes] -> [*batch], curved, defined in the whole simplex."""
    weights = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device) / x.shape[-1]
    return (x * weights).sum(-1) ** 2 + (x * x * weights).sum(-1)


def loss_of(name, logits: torch.Tensor, *, generator=None, mask=None, objective=smooth_loss) -> torch.Tensor:
    estimator = make_estimator(name) if isinstance(name, str) else name
    return expectation(
        objective,
        logits,
        estimator=estimator,
        num_samples=samples_needed(estimator.name),
        generator=generator,
        mask=mask,
    )
