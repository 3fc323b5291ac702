"""Every estimator, called the same way, for the parametrised tests."""

import torch

from catreparam import ESTIMATORS, expectation, make_estimator
from catreparam.estimators import fewest_samples
from catreparam.estimators.facts import facts_of
from catreparam.kernels.compiled import library
from catreparam.kernels.methods import METHODS
from catreparam.kernels.settings import Setting
from catreparam.kernels.torch.adjoints import ADJOINTS

ALL = list(ESTIMATORS)
REPARAMETERISED = [name for name in ALL if not facts_of(name).takes_objective]
SCORE_FUNCTION = [name for name in ALL if facts_of(name).takes_objective]
RELAXED = [name for name in REPARAMETERISED if facts_of(name).relaxes]
EXACT_LAW = [
    name for name in REPARAMETERISED if facts_of(name).law == "exact" or "forward_temperature" in facts_of(name).law
]
UNBIASED = [name for name in SCORE_FUNCTION if name != "reinmax_rloo"]
OUTSIDE_TRANSFORMS = [name for name in ALL if "vmap" in facts_of(name).unsupported]  # and they say so
COMPILED = [name for name in ALL if name in METHODS and METHODS[name].rule in library.RULES]
ON_TORCH_PATH = [name for name in ALL if name in METHODS and METHODS[name].rule in ADJOINTS]


def setting_for(method: str, *fields, **more) -> Setting:
    """A setting of a method by name, unchecked; ReinMax and ReinDGE have weight 1 unless another is given."""
    if method in ("reinmax", "reindge"):
        more.setdefault("weight", 1.0)
    return Setting(METHODS[method], *fields, **more)


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
