"""A numpyro distribution over one-hot vectors whose samples carry the gradient of any estimator of `catreparam.jax`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jaxtyping import Float

from catreparam.arguments import hands_on
from catreparam.jax import diffusion, direct
from catreparam.jax.categorical import centred, finite, one_hot_like
from catreparam.jax.validation import check_logits, check_rows
from catreparam.validation import check_choice, check_number

try:
    from numpyro.distributions import Distribution, constraints  # pyright: ignore[reportMissingImports]
    from numpyro.distributions.util import validate_sample  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError("catreparam.jax.numpyro needs numpyro; install it with: pip install numpyro") from error

_ESTIMATORS: dict[str, Callable[..., Array]] = {
    name: function
    for module in (direct, diffusion)
    for name, function in vars(module).items()
    if f"{name}_surrogate" in vars(module)
}


class _OneHot(constraints.ParameterFreeConstraint[Array]):
    """One-hot vectors. Not called discrete, as SVI warns of such sites; no bijection is known, so that NUTS refuses."""

    event_dim = 1

    def __call__(self, x: Array) -> Array:
        return ((x == 0) | (x == 1)).all(-1) & (x.sum(-1) == 1)

    def feasible_like(self, prototype: Array) -> Array:
        return one_hot_like(jnp.zeros(prototype.shape[:-1], dtype=int), prototype)


class ReparameterizedCategorical(Distribution):
    """Categorical distribution over one-hot x, event_shape (num_classes,); `sample` has the gradient of `estimator`.

    `probs` or `logits` [*batch, num_classes], unnormalised; logits may be -inf (impossible class). `estimator` is the
    name of one in `catreparam.jax`, or a function (logits, *, key) -> x such as partial(redge, t1=0.3). `unimix` is the
    weight, in [0, 1], of the uniform law over the allowed classes in p: a number, or an array for [*batch].

    Law:    `log_prob`, `entropy`, `mean` and `variance` are those of p, exactly. `sample` follows the estimator's
            law, which is the same for all but redge, redge_cov and reindge.
    Grad:   `log_prob(x)` is linear in x, so that an ELBO made of log-probabilities passes its gradient through x too:
            use it in the model and in the guide. `mode` has straight-through's gradient.
    Raises: ValueError unless exactly one of probs and logits is given, for estimators that do not exist, and, outside
            jit, for NaN, +inf, negative probs and rows that allow nothing; TypeError for wrong types.

    >>> q = ReparameterizedCategorical(logits=jnp.zeros((4, 3)), estimator="redge")
    >>> q.sample(jax.random.key(0), (2,)).shape, q.batch_shape, q.event_shape
    ((2, 4, 3), (4,), (3,))
    """

    arg_constraints = {"logits": constraints.dependent(is_discrete=False, event_dim=1)}  # noqa: RUF012  checked here
    support = _OneHot()  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    reparametrized_params = ["logits"]  # noqa: RUF012
    has_enumerate_support = True
    pytree_data_fields = ("logits",)
    pytree_aux_fields = ("estimator",)

    @hands_on
    def __init__(
        self,
        probs: Float[Array, "*batch num_classes"] | None = None,
        logits: Float[Array, "*batch num_classes"] | None = None,
        *,
        estimator: str | Callable[..., Array] = "reinmax",
        unimix: float | Array = 0.0,
        validate_args: bool | None = None,
    ) -> None:
        if (probs is None) == (logits is None):
            raise ValueError("give either probs or logits, not both" if logits is not None else "give probs or logits")
        given = check_logits(logits if probs is None else _log(probs), -1)
        check_rows(given)
        if isinstance(estimator, str):
            estimator = _ESTIMATORS[check_choice("estimator", estimator, _ESTIMATORS)]
        elif not callable(estimator):
            raise TypeError(f"estimator must be a name or a function (logits, *, key) -> x, got {estimator!r}")
        self.logits, self.estimator = _mixed(given, unimix), estimator
        super().__init__(given.shape[:-1], given.shape[-1:], validate_args=validate_args)

    @property
    def probs(self) -> Float[Array, "*batch num_classes"]:
        """Probabilities."""
        return jax.nn.softmax(self.logits, -1)

    @property
    def mean(self) -> Float[Array, "*batch num_classes"]:
        """E[x], the probabilities."""
        return self.probs

    @property
    def variance(self) -> Float[Array, "*batch num_classes"]:
        """Var[x] entry by entry, p (1 - p)."""
        return self.probs * (1 - self.probs)

    @property
    def mode(self) -> Float[Array, "*batch num_classes"]:
        """The most probable one-hot x (the first of several), with the gradient of the probabilities."""
        probs = self.probs
        return one_hot_like(self.logits.argmax(-1), self.logits) + (probs - stop_gradient(probs))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """One-hot samples [*sample_shape, *batch, num_classes] with the estimator's gradient."""
        return self.estimator(jnp.broadcast_to(self.logits, (*sample_shape, *self.logits.shape)), key=key)

    @validate_sample
    def log_prob(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, value: Array, intermediates: Any = None
    ) -> Float[Array, "*batch"]:
        """log P(value), linear in the one-hot value [*any, *batch, num_classes]; -inf at impossible classes."""
        log_probs = jax.nn.log_softmax(self.logits, -1)
        impossible = ((stop_gradient(value) > 0) & (log_probs == -jnp.inf)).any(-1)
        return jnp.where(impossible, -jnp.inf, (value * finite(log_probs)).sum(-1))

    def entropy(self) -> Float[Array, "*batch"]:
        """Entropy in nats [*batch]."""
        log_probs = jax.nn.log_softmax(self.logits, -1)
        return -(jnp.exp(log_probs) * finite(log_probs)).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Array:
        """All one-hot values [num_classes, *batch (or ones), num_classes]."""
        count, batch = self.event_shape[0], self.batch_shape
        values = jnp.eye(count, dtype=self.logits.dtype).reshape(count, *(1,) * len(batch), count)
        return jnp.broadcast_to(values, (count, *batch, count)) if expand else values


def _mixed(logits: Array, unimix: float | Array) -> Array:
    """Logits of a law mixed with the uniform one over the classes that it allows."""
    if not isinstance(unimix, Array) and check_number("unimix", unimix, least=0.0, most=1.0) == 0.0:
        return logits
    rows = centred(logits)
    allowed = rows > -jnp.inf
    weight = jnp.asarray(unimix, logits.dtype)[..., None]
    probs = (1 - weight) * jax.nn.softmax(rows, -1) + weight / allowed.sum(-1, keepdims=True)
    log_probs = jnp.log(jnp.where(allowed, jnp.maximum(probs, jnp.finfo(logits.dtype).tiny), 1.0))
    return jnp.where(allowed, log_probs, -jnp.inf)


def _log(probs: Any) -> Array:
    """Logits of probabilities; -inf, with a gradient of zero, where they vanish. NaN where they are negative."""
    array = check_logits(probs, -1)
    return jnp.where(array == 0, -jnp.inf, jnp.log(jnp.where(array == 0, 1.0, array)))
