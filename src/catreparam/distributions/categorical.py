"""A torch.distributions distribution over one-hot vectors whose samples carry any estimator's gradient."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Bernoulli, Distribution, OneHotCategorical, constraints
from torch.distributions.utils import clamp_probs, probs_to_logits

from catreparam import categorical
from catreparam.arguments import hands_on
from catreparam.categorical import (
    attach_gradient,
    centred,
    draw_one_hot,
    finite,
    from_rows,
    one_hot_like,
    wide,
)
from catreparam.distributions.copies import copied, expanded
from catreparam.distributions.pyro_methods import PyroMethods
from catreparam.estimators.facts import facts_of
from catreparam.estimators.sampling import (
    Hyperparameters,
    Sampler,
    check_hyperparameters,
    draw,
    sampling_estimator,
)
from catreparam.validation import check_dense, check_generator, check_logits, check_number, check_rows, demand


class ReparameterizedCategorical(PyroMethods):
    """Categorical distribution over one-hot x, event_shape [num_classes]; `rsample` has the gradient of `estimator`.

    Parameters:
        probs: [*batch, num_classes], unnormalised (counts, say), at least 0. Give probs or logits, not both.
        logits: [*batch, num_classes], unnormalised; -inf is an impossible class.
        validate_args: whether values are checked; None: as torch.distributions is set.
        estimator: whose gradient `rsample` has: a name in ESTIMATORS, a made estimator, or any function logits -> x.
        temperature: handed to the estimator: a number, or a tensor with one value per row that broadcasts to
            [*batch], learned where the estimator has a gradient for it. None: the estimator's default.
        t1: likewise.
        unimix: the weight of the uniform law mixed in, in [0, 1], as world models do:
            p = (1 - unimix) softmax(logits) + unimix / K over the K classes that are allowed, those with logits above
            -inf or probs above 0. The others stay impossible. A number, or a tensor that broadcasts to [*batch], to
            which the gradient goes too.
        generator: used for every draw that is not given its own.

    Law:    `sample`, `log_prob`, `entropy`, `mean` and KL are those of p, exactly. `rsample` follows the estimator's
            law, which is the same for all but redge, redge_cov and reindge.
    Grad:   `log_prob(x)` is linear in x, so that a loss made of log_prob(rsample()) passes its gradient through x too;
            torch's OneHotCategorical looks the class up and loses it. `mode` has straight-through's gradient.
    Raises: ValueError unless exactly one of probs and logits is given, for NaN, +inf, negative probs and rows that
            allow nothing (with validate_args), for score-function estimators, hyperparameters that the estimator lacks,
            values per row that do not broadcast to the batch, and unimix outside [0, 1]; TypeError for wrong types.

    In Pyro it can stand in `pyro.sample` as it is; use `.to_event(n)` where torch has `Independent`.

    >>> q = ReparameterizedCategorical(logits=torch.zeros(4, 3), estimator="redge")
    >>> q.rsample((2,)).shape, q.batch_shape, q.event_shape
    (torch.Size([2, 4, 3]), torch.Size([4]), torch.Size([3]))
    """

    arg_constraints = {  # noqa: RUF012  # pyright: ignore
        "probs": constraints.simplex,
        "logits": constraints.real_vector,
    }
    support = constraints.one_hot  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    has_rsample = True
    has_enumerate_support = True
    pyro_twin = "OneHotCategorical"

    @hands_on
    def __init__(
        self,
        probs: Float[Tensor, "*batch num_classes"] | None = None,
        logits: Float[Tensor, "*batch num_classes"] | None = None,
        validate_args: bool | None = None,
        *,
        estimator: str | Sampler = "reinmax",
        temperature: float | Tensor | None = None,
        t1: float | Tensor | None = None,
        unimix: float | Tensor = 0.0,
        generator: Generator | None = None,
    ) -> None:
        if (probs is None) == (logits is None):
            raise ValueError("give either probs or logits, not both" if logits is not None else "give probs or logits")
        validate = Distribution._validate_args if validate_args is None else validate_args
        self._made = class_logits_of, (probs, logits, unimix, validate)
        self._given = given = class_logits_of(*self._made[1])
        check_generator(generator, given.device)
        self.generator = generator
        self.estimator = sampling_estimator(estimator)
        named = {"temperature": temperature, "t1": t1}
        self.hyperparameters: Hyperparameters = {key: value for key, value in named.items() if value is not None}
        check_hyperparameters(self.estimator, self.hyperparameters)
        for key, value in self.hyperparameters.items():
            _check_row_values(key, value, given, validate)
        super().__init__(given.shape[:-1], given.shape[-1:], validate_args=False)  # checked above
        self._validate_args = validate

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy over copies of the parameters; what is computed is shared, so that its gradient goes on."""
        new = memo[id(self)] = self.__class__.__new__(self.__class__)
        for name, value in vars(self).items():
            if name != "_given":  # made of the copies
                vars(new)[name] = copied(value, memo)
        function, arguments = new._made
        new._given = function(*arguments)
        return new

    @property
    def logits(self) -> Float[Tensor, "*batch num_classes"]:
        """Log-probabilities."""
        return from_rows(torch.log_softmax(wide(self._given), -1), self._given)

    @property
    def probs(self) -> Float[Tensor, "*batch num_classes"]:
        """Probabilities."""
        return from_rows(torch.softmax(wide(self._given), -1), self._given)

    @property
    def param_shape(self) -> Size:
        """batch_shape + event_shape."""
        return self._given.shape

    @property
    def mean(self) -> Float[Tensor, "*batch num_classes"]:
        """E[x], the probabilities."""
        return self.probs

    @property
    def mode(self) -> Float[Tensor, "*batch num_classes"]:
        """The most probable one-hot x (the first of several), with the gradient of the probabilities."""
        return attach_gradient(one_hot_like(self._given.argmax(-1), self._given), self.probs)

    @property
    def variance(self) -> Float[Tensor, "*batch num_classes"]:
        """Var[x] entry by entry, p (1 - p)."""
        return self.probs * (1 - self.probs)

    def rsample(self, sample_shape: Any = (), generator: Generator | None = None) -> Tensor:
        """One-hot samples [*sample_shape, *batch, num_classes] with the estimator's gradient."""
        shape = Size(sample_shape)
        logits = self._given.expand(shape + self._given.shape)
        generator = self.generator if generator is None else generator
        x = draw(self.estimator, logits, hyperparameters=self.hyperparameters, generator=generator)
        if x.shape != logits.shape:
            raise ValueError(
                f"estimator {facts_of(self.estimator).name} must keep the shape {tuple(logits.shape)}, "
                f"gave {tuple(x.shape)}"
            )
        return x

    def sample(self, sample_shape: Any = (), generator: Generator | None = None) -> Tensor:
        """Exact one-hot samples [*sample_shape, *batch, num_classes], without gradient."""
        with torch.no_grad():
            probs = torch.softmax(wide(self._given), -1)
            generator = self.generator if generator is None else generator
            x = draw_one_hot(probs.expand(Size(sample_shape) + probs.shape), generator)
            return from_rows(x, self._given)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(value), linear in the one-hot value [*any, *batch, num_classes]; -inf at impossible classes."""
        value = self._checked(value)
        log_probs = torch.log_softmax(wide(self._given), -1)
        impossible = ((value > 0) & (log_probs == -torch.inf)).any(-1)
        total = (value * finite(log_probs)).sum(-1).masked_fill(impossible, -torch.inf)
        return total.to(self._given.dtype)

    def entropy(self) -> Tensor:
        """Entropy in nats [*batch]."""
        return categorical.entropy(wide(self._given)).to(self._given.dtype)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All one-hot values [num_classes, *batch (or ones), num_classes]."""
        count, ones = self._event_shape[0], (1,) * len(self._batch_shape)
        values = torch.eye(count, dtype=self._given.dtype, device=self._given.device).view(count, *ones, count)
        return values.expand(count, *self._batch_shape, count) if expand else values

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ReparameterizedCategorical":
        """The same distribution with its batch axes expanded to `batch_shape`; no memory is copied."""
        new: Any = self._get_checked_instance(ReparameterizedCategorical, _instance)
        batch = Size(batch_shape)
        new._made = expanded, (self._made, batch + self._event_shape)
        new._given = self._given.expand(batch + self._event_shape)
        new.estimator, new.generator = self.estimator, self.generator
        new.has_rsample = self.has_rsample
        new.hyperparameters = self.hyperparameters  # values per row still broadcast: expansion adds axes on the left
        Distribution.__init__(new, batch, self._event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def conjugate_update(
        self, other: "ReparameterizedCategorical | OneHotCategorical"
    ) -> tuple["ReparameterizedCategorical", Float[Tensor, "*batch"]]:
        """The law proportional to P(x) other(x), and the constant [*batch] by which their log-probabilities differ.

        self.log_prob(x) + other.log_prob(x) = updated.log_prob(x) + constant, for every x.
        """
        if not isinstance(other, ReparameterizedCategorical | OneHotCategorical):
            raise TypeError(f"other must be a law over one-hot vectors, got {type(other).__name__}")
        total = self.logits + torch.log_softmax(class_logits(other), -1)
        if self._validate_args:
            check_rows(total)
        updated = self.expand(total.shape[:-1])
        updated._given, updated._made = total, (torch.Tensor.view_as, (total, total))
        return updated, torch.logsumexp(total, -1)

    def __repr__(self) -> str:
        shape = tuple(self._given.shape)
        return f"{type(self).__name__}(logits: {shape}, estimator: {facts_of(self.estimator).name})"


def class_logits_of(probs: Any, logits: Any, unimix: float | Tensor, validate: bool) -> Tensor:
    """The class logits that all else is computed from: what is made of them may lack a gradient."""
    given = logits if logits is not None else _log(probs, validate)
    check_logits(given)
    if validate:
        check_rows(given)
    return _mixed(given, unimix, validate)


def class_logits(law: ReparameterizedCategorical | OneHotCategorical) -> Tensor:
    """Logits of all classes, unnormalised: normalised ones in half precision would be rounded once more."""
    if isinstance(law, ReparameterizedCategorical):
        return law._given
    return torch.where(is_clamped(law), _log(law.probs, False), law.logits)


def is_clamped(law: OneHotCategorical | Bernoulli) -> Tensor:
    """Where torch has taken logits from probs that lie too near to 0 or 1 for it: there the probs are exact."""
    probs = law.probs
    near = probs_to_logits(probs, is_binary=isinstance(law, Bernoulli))
    return (clamp_probs(probs) != probs) & (law.logits == near)


def _log(probs: Any, validate: bool) -> Tensor:
    """Logits of probabilities; -inf, with a gradient of zero, where they vanish."""
    if not isinstance(probs, Tensor) or probs.is_complex():
        found = probs.dtype if isinstance(probs, Tensor) else type(probs).__name__
        raise TypeError(f"probs must be a floating torch.Tensor, got {found}; wrap it in torch.as_tensor(...)")
    check_dense("probs", probs)
    probs = probs if probs.is_floating_point() else probs.to(torch.get_default_dtype())
    if validate:
        what = "probs must not be negative or NaN; pass logits=... if these are log-probabilities"
        demand(probs, lambda values: values >= 0, what)
    return torch.where(
        probs > 0, torch.where(probs > 0, probs, 1.0).log(), torch.where(probs == 0, -torch.inf, torch.nan)
    )


def _mixed(given: Tensor, unimix: float | Tensor, validate: bool) -> Tensor:
    """Logits of a law mixed with the uniform one over the classes that it allows."""
    if isinstance(unimix, Tensor):
        _check_broadcasts("unimix", unimix, given)
        if validate:
            demand(
                unimix, lambda part: (part >= 0) & (part <= 1), "unimix must be at least 0 and at most 1 in every row"
            )
        unimix = unimix.unsqueeze(-1)
    elif check_number("unimix", unimix, least=0.0, most=1.0) == 0.0:
        return given
    rows = centred(wide(given))
    allowed = rows > -torch.inf
    probs = (1 - unimix) * torch.softmax(rows, -1) + unimix / allowed.sum(-1, keepdim=True)
    logits = torch.where(allowed, probs, 1.0).clamp_min(torch.finfo(rows.dtype).tiny).log()
    return from_rows(logits.masked_fill(~allowed, -torch.inf), given)


def _check_row_values(name: str, value: float | Tensor, logits: Tensor, validate: bool) -> None:
    if not isinstance(value, Tensor):
        check_number(name, value, above=0.0)
        return
    _check_broadcasts(name, value, logits)
    if validate:
        demand(value, lambda values: values > 0, f"{name} must be greater than 0 in every row")


def _check_broadcasts(name: str, value: Tensor, logits: Tensor) -> None:
    batch = logits.shape[:-1]
    try:
        fits = torch.broadcast_shapes(value.shape, batch) == batch
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} of shape {tuple(value.shape)} must broadcast to the batch shape {tuple(batch)}, "
            "one value per row and no axis for the classes"
        )
