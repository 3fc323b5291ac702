"""What Pyro asks of a distribution beyond torch.distributions, borrowed from Pyro itself when it first asks."""

import sys
from abc import ABCMeta
from typing import Any

import torch
from torch.compiler import is_compiling
from torch.distributions import Distribution

from catreparam.extras import install
from catreparam.pending import defers
from catreparam.validation import check_flag, demand, has_values


class PyroMethods(Distribution):
    """Makes a torch distribution usable in `pyro.sample` and `pyro.plate` without importing Pyro before it is there.

    A class of Pyro as a base would make Pyro a dependency; so the class is registered as a virtual subclass of its twin
    there when one is made while Pyro is loaded, and the methods below call Pyro's own.
    """

    pyro_twin: str

    def __new__(cls, *_: Any, **__: Any) -> Any:
        if "_registered" not in vars(cls) and "pyro.distributions" in sys.modules and not is_compiling():
            for base in (_pyro_mixin(), getattr(sys.modules["pyro.distributions"], cls.pyro_twin)):
                if isinstance(base, ABCMeta):  # the twin is not, where somebody put our class in its place
                    base.register(cls)
            cls._registered = True
        return super().__new__(cls)

    def __getattr__(self, name: str) -> Any:
        """What else Pyro's distributions have (`rv`, `reshape`), while Pyro is loaded."""
        if not name.startswith("_") and "pyro.distributions" in sys.modules and hasattr(_pyro_mixin(), name):
            return getattr(_pyro_mixin(), name).__get__(self, type(self))
        return super().__getattribute__(name)  # its own error

    def __call__(self, sample_shape: torch.Size = torch.Size()) -> torch.Tensor:  # noqa: B008
        """A sample as Pyro takes it: `rsample`, or `sample` after has_rsample_(False)."""
        return self.rsample(sample_shape) if self.has_rsample else self.sample(sample_shape)

    def has_rsample_(self, value: bool) -> Any:
        """Says, in place, whether Pyro draws with the estimator's gradient or takes the score function's."""
        self.has_rsample = check_flag("value", value)
        return self

    @classmethod
    def infer_shapes(cls, probs: Any = None, logits: Any = None, **_: Any) -> tuple[torch.Size, torch.Size]:
        """(batch_shape, event_shape) for a parameter of the given shape; those of hyperparameters broadcast to it."""
        shape = torch.Size(probs if logits is None else logits)
        batch_axes = len(shape) - cls.support.event_dim  # pyright: ignore[reportAttributeAccessIssue]
        return shape[:batch_axes], shape[batch_axes:]

    def _checked(self, value: Any) -> torch.Tensor:
        """A value as `log_prob` computes with it, once it lies in the support."""
        if self._validate_args and isinstance(value, torch.Tensor) and defers(value.device):
            support: Any = self.support
            demand(value, support.check, f"value must lie in the support of {type(self).__name__}")
        elif self._validate_args and not (isinstance(value, torch.Tensor) and not has_values(value)):
            self._validate_sample(value)
        value = torch.as_tensor(value)
        return value.float() if value.dtype is torch.bool else value

    @property
    def event_dim(self) -> int:
        """Number of axes of one event."""
        return len(self.event_shape)

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

        log_prob = self.log_prob(x, *args, **kwargs)
        zero: Any = 0  # as Pyro writes it; its types ask for a tensor
        return ScoreParts(log_prob, zero, log_prob) if x.requires_grad else ScoreParts(log_prob, log_prob, zero)


def _pyro_mixin() -> Any:
    try:
        from pyro.distributions.torch_distribution import TorchDistributionMixin
    except ImportError as error:
        raise ImportError(f"this method belongs to Pyro; {install('integrations')}") from error
    return TorchDistributionMixin
