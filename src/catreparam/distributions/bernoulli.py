"""The two-class form: a torch.distributions distribution over {0, 1} whose samples carry any estimator's gradient.

KL divergences of both distributions in closed form, registered with torch.distributions.kl_divergence.
"""

from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Bernoulli, Distribution, OneHotCategorical, Poisson, constraints
from torch.distributions.kl import register_kl

from catreparam.arguments import hands_on
from catreparam.categorical import entropy, finite, wide
from catreparam.distributions.categorical import ReparameterizedCategorical, class_logits, class_logits_of, is_clamped
from catreparam.distributions.pyro_methods import PyroMethods
from catreparam.estimators.facts import facts_of
from catreparam.estimators.sampling import Sampler
from catreparam.validation import check_dense, demand


class ReparameterizedBernoulli(PyroMethods):
    """Bernoulli distribution over x in {0, 1}, event_shape []; `rsample` has the gradient of `estimator`.

    The case of two classes of `ReparameterizedCategorical`: the estimator sees class logits (0, logits).

    Parameters:
        probs: of x = 1, in [0, 1], [*batch] or a number. Give probs or logits, not both.
        logits: of x = 1, [*batch] or a number.
        validate_args: whether values are checked; None: as torch.distributions is set.
        estimator: whose gradient `rsample` has: a name in ESTIMATORS, a made estimator, or any function logits -> x.
        temperature: handed to the estimator: a number, or a tensor with one value per row that broadcasts to
            [*batch], learned where the estimator has a gradient for it. None: the estimator's default.
        t1: likewise.
        unimix: the weight of the fair coin mixed in, in [0, 1], [*batch] or a number; what is impossible stays so.
        generator: used for every draw that is not given its own.

    Raises: what `ReparameterizedCategorical` raises; ValueError for probs outside [0, 1].

    >>> q = ReparameterizedBernoulli(probs=torch.tensor([0.0, 1.0]))
    >>> q.rsample((3,)).tolist(), q.log_prob(torch.tensor([1.0, 1.0])).tolist()
    ([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], [-inf, 0.0])
    """

    arg_constraints = {  # noqa: RUF012  # pyright: ignore
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    support = constraints.boolean  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    has_rsample = True
    has_enumerate_support = True
    pyro_twin = "Bernoulli"

    @hands_on
    def __init__(
        self,
        probs: Float[Tensor, "*batch"] | float | None = None,
        logits: Float[Tensor, "*batch"] | float | None = None,
        validate_args: bool | None = None,
        *,
        estimator: str | Sampler = "reinmax",
        temperature: float | Tensor | None = None,
        t1: float | Tensor | None = None,
        unimix: float | Tensor = 0.0,
        generator: Generator | None = None,
    ) -> None:
        named = {"probs": probs, "logits": logits}
        given = {name: _parameter(name, value) for name, value in named.items() if value is not None}
        validate = Distribution._validate_args if validate_args is None else validate_args
        p = given.get("probs")
        if validate and p is not None:
            what = "probs must lie in [0, 1]; pass logits=... if these are log-odds"
            demand(p, lambda values: (values >= 0) & (values <= 1), what)
        self.two_classes = ReparameterizedCategorical(
            **{name: _two_classes(name, value) for name, value in given.items()},
            validate_args=validate,
            estimator=estimator,
            temperature=temperature,
            t1=t1,
            unimix=unimix,
            generator=generator,
        )
        self.two_classes._made = _class_logits_of_two, (p, given.get("logits"), unimix, validate)
        super().__init__(self.two_classes.batch_shape, Size(), validate_args=False)
        self._validate_args = validate

    @property
    def logits(self) -> Float[Tensor, "*batch"]:
        """Log-odds of x = 1."""
        given = self.two_classes._given
        return given[..., 1] - given[..., 0]

    @property
    def probs(self) -> Float[Tensor, "*batch"]:
        """P(x = 1)."""
        return self.two_classes.probs[..., 1]

    @property
    def param_shape(self) -> Size:
        """batch_shape."""
        return self._batch_shape

    @property
    def mean(self) -> Float[Tensor, "*batch"]:
        """P(x = 1)."""
        return self.probs

    @property
    def mode(self) -> Float[Tensor, "*batch"]:
        """The likelier value, with the gradient of the probability; 0 if both are equally likely."""
        return self.two_classes.mode[..., 1]

    @property
    def variance(self) -> Float[Tensor, "*batch"]:
        """p (1 - p)."""
        return self.two_classes.variance[..., 1]

    def rsample(self, sample_shape: Any = (), generator: Generator | None = None) -> Tensor:
        """Samples in {0, 1} [*sample_shape, *batch] with the estimator's gradient."""
        return self.two_classes.rsample(sample_shape, generator)[..., 1]

    def sample(self, sample_shape: Any = (), generator: Generator | None = None) -> Tensor:
        """Exact samples in {0, 1} [*sample_shape, *batch], without gradient."""
        return self.two_classes.sample(sample_shape, generator)[..., 1]

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(value), linear in value [*any, *batch]."""
        value = self._checked(value)
        return self.two_classes.log_prob(torch.stack((1 - value, value), -1))

    def entropy(self) -> Tensor:
        """Entropy in nats [*batch]."""
        return self.two_classes.entropy()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The values 0 and 1, [2, *batch (or ones)]."""
        return self.two_classes.enumerate_support(expand)[..., 1]

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ReparameterizedBernoulli":
        """The same distribution with its batch axes expanded to `batch_shape`; no memory is copied."""
        return self._of(self.two_classes.expand(batch_shape), _instance)

    def conjugate_update(
        self, other: "ReparameterizedBernoulli | Bernoulli"
    ) -> tuple["ReparameterizedBernoulli", Float[Tensor, "*batch"]]:
        """As of `ReparameterizedCategorical`."""
        updated, constant = self.two_classes.conjugate_update(OneHotCategorical(logits=_class_logits(other)))
        return self._of(updated), constant

    def _of(self, two_classes: ReparameterizedCategorical, _instance: Any = None) -> "ReparameterizedBernoulli":
        new: Any = self._get_checked_instance(ReparameterizedBernoulli, _instance)
        new.two_classes, new.has_rsample = two_classes, self.has_rsample
        Distribution.__init__(new, two_classes.batch_shape, Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        estimator = facts_of(self.two_classes.estimator).name
        return f"{type(self).__name__}(logits: {tuple(self._batch_shape)}, estimator: {estimator})"


def _two_classes(name: str, value: Tensor) -> Tensor:
    return torch.stack((1 - value if name == "probs" else torch.zeros_like(value), value), -1)


def _class_logits_of_two(p: Tensor | None, logits: Tensor | None, unimix: float | Tensor, validate: bool) -> Tensor:
    pair = (None if p is None else _two_classes("probs", p), None if logits is None else _two_classes("logits", logits))
    return class_logits_of(*pair, unimix, validate)


def _parameter(name: str, value: Any) -> Tensor:
    if isinstance(value, Real):
        return torch.full((), float(value))
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = value.dtype if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"{name} must be a floating torch.Tensor or a number, got {found}; use torch.tensor(...)")
    check_dense(name, value)
    return value


AnyCategorical = ReparameterizedCategorical | OneHotCategorical
AnyBernoulli = ReparameterizedBernoulli | Bernoulli


@register_kl(ReparameterizedCategorical, ReparameterizedCategorical)
@register_kl(ReparameterizedCategorical, OneHotCategorical)
@register_kl(OneHotCategorical, ReparameterizedCategorical)
def _kl_categorical(p: AnyCategorical, q: AnyCategorical) -> Tensor:
    """KL(p || q) in nats [*batch]; +inf where q forbids what p allows."""
    if p.event_shape != q.event_shape:
        raise ValueError(f"both must have the same classes, got {p.event_shape[0]} and {q.event_shape[0]}")
    return _kl(class_logits(p), class_logits(q))


@register_kl(ReparameterizedBernoulli, ReparameterizedBernoulli)
@register_kl(ReparameterizedBernoulli, Bernoulli)
@register_kl(Bernoulli, ReparameterizedBernoulli)
def _kl_bernoulli(p: AnyBernoulli, q: AnyBernoulli) -> Tensor:
    """KL(p || q) in nats [*batch]; +inf where q forbids what p allows."""
    return _kl(_class_logits(p), _class_logits(q))


@register_kl(ReparameterizedBernoulli, Poisson)
def _kl_bernoulli_poisson(p: ReparameterizedBernoulli, q: Poisson) -> Tensor:
    """KL(p || q) in nats [*batch]; the factorials of 0 and 1 are 1."""
    logits = wide(_class_logits(p))
    probs = torch.softmax(logits, -1)[..., 1]
    return q.rate - probs * torch.where(probs > 0, q.rate, 1.0).log() - entropy(logits)


@register_kl(Poisson, ReparameterizedBernoulli)
def _kl_poisson_bernoulli(p: Poisson, q: ReparameterizedBernoulli) -> Tensor:
    """KL(p || q) in nats [*batch]; +inf unless p, at rate 0, is always 0."""
    return torch.where(p.rate > 0, torch.inf, -q.log_prob(torch.zeros_like(q.probs)))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    wide = torch.promote_types(torch.promote_types(p.dtype, q.dtype), torch.float32)
    p, q = torch.broadcast_tensors(p.to(wide), q.to(wide))
    q = torch.log_softmax(q, -1).masked_fill(p == -torch.inf, -1.0)  # of no account there, and 0 * inf has no gradient
    return (torch.softmax(p, -1) * (finite(torch.log_softmax(p, -1)) - q)).sum(-1)


def _class_logits(law: AnyBernoulli) -> Tensor:
    if isinstance(law, ReparameterizedBernoulli):
        return law.two_classes._given
    if not isinstance(law, Bernoulli):
        raise TypeError(f"other must be a Bernoulli law, got {type(law).__name__}")
    exact = ReparameterizedBernoulli(law.probs, validate_args=False).two_classes._given
    return torch.where(
        is_clamped(law).unsqueeze(-1), exact, torch.stack((torch.zeros_like(law.logits), law.logits), -1)
    )
