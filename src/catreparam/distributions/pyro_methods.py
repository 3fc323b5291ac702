"""What Pyro asks of a distribution beyond torch.distributions, borrowed from Pyro itself when it first asks."""

import sys
from typing import Any

import torch

from catreparam.extras import install


class PyroMethods:
    """Makes a torch distribution usable in `pyro.sample` and `pyro.plate` without importing Pyro before it is there.

    A class of Pyro as a base would make Pyro a dependency; so the class is registered as a virtual subclass of Pyro's
    `TorchDistributionMixin` when one is made while Pyro is loaded, and the methods below call Pyro's own.
    """

    def __new__(cls, *_: Any, **__: Any) -> Any:
        if "pyro.distributions" in sys.modules:
            _pyro_mixin().register(cls)
        return super().__new__(cls)

    def __call__(self, sample_shape: torch.Size = torch.Size()) -> torch.Tensor:  # noqa: B008
        return self.rsample(sample_shape)  # type: ignore[attr-defined]

    @property
    def event_dim(self) -> int:
        """Number of axes of one event."""
        return len(self.event_shape)  # type: ignore[attr-defined]

    def shape(self, sample_shape: torch.Size = torch.Size()) -> torch.Size:  # noqa: B008
        """Shape of a sample: sample_shape + batch_shape + event_shape."""
        return _pyro_mixin().shape(self, sample_shape)

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> Any:
        """Pyro's `Independent` with the rightmost batch axes (all by default) moved into the event."""
        return _pyro_mixin().to_event(self, reinterpreted_batch_ndims)

    def expand_by(self, sample_shape: Any) -> Any:
        """Expanded by further batch axes on the left."""
        return _pyro_mixin().expand_by(self, sample_shape)

    def mask(self, mask: Any) -> Any:
        """Pyro's `MaskedDistribution`: log-probabilities count only where `mask` is True."""
        return _pyro_mixin().mask(self, mask)

    def score_parts(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Pyro's split of log_prob for gradient estimation: pathwise for what `rsample` drew, else the score.

        Pyro goes by `has_rsample` alone and would leave enumerated values without their probabilities as weights.
        """
        from pyro.distributions.score_parts import ScoreParts

        log_prob = self.log_prob(x, *args, **kwargs)  # type: ignore[attr-defined]
        zero: Any = 0  # as Pyro writes it; its types ask for a tensor
        return ScoreParts(log_prob, zero, log_prob) if x.requires_grad else ScoreParts(log_prob, log_prob, zero)


def _pyro_mixin() -> Any:
    try:
        from pyro.distributions.torch_distribution import TorchDistributionMixin
    except ImportError as error:
        raise ImportError(f"this method belongs to Pyro; {install('integrations')}") from error
    return TorchDistributionMixin
