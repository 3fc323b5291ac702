"""Every estimator by name, and made estimators: a name with hyperparameters, checked, picklable, printable."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from catreparam.estimators.arsm import arsm
from catreparam.estimators.control_variates import RelaxControlVariate, rebar, relax, unbiased_redge
from catreparam.estimators.decoupled import decoupled_straight_through
from catreparam.estimators.enumeration import exact
from catreparam.estimators.exact_redge import exact_redge, transport_redge
from catreparam.estimators.gapped import gapped_straight_through
from catreparam.estimators.gumbel_rao import gumbel_rao
from catreparam.estimators.gumbel_softmax import gumbel_softmax
from catreparam.estimators.redge import redge, redge_cov
from catreparam.estimators.reindge import reindge
from catreparam.estimators.reinforce import MovingAverageBaseline, reinforce, rloo
from catreparam.estimators.reinmax import lambda_reinmax, reinmax
from catreparam.estimators.reinmax_rloo import reinmax_rloo
from catreparam.estimators.reinmax_variants import reinmax_cv, reinmax_rao
from catreparam.estimators.straight_through import straight_through
from catreparam.validation import check_choice

ESTIMATORS: dict[str, Callable[..., torch.Tensor]] = {
    function.__name__: function
    for function in (
        straight_through,
        gumbel_softmax,
        gumbel_rao,
        gapped_straight_through,
        decoupled_straight_through,
        reinmax,
        reinmax_rao,
        reinmax_cv,
        lambda_reinmax,
        redge,
        redge_cov,
        reindge,
        exact_redge,
        transport_redge,
        exact,
        reinforce,
        rloo,
        arsm,
        rebar,
        relax,
        unbiased_redge,
        reinmax_rloo,
    )
}

_TAKES_OBJECTIVE = {
    function: next(iter(inspect.signature(function).parameters)) == "objective" for function in ESTIMATORS.values()
}

# What a made estimator owns when the caller gives none: state that must live from call to call.
_OWNED = {("reinforce", "baseline"): MovingAverageBaseline, ("relax", "control_variate"): RelaxControlVariate}
_PER_CALL = (
    "objective",
    "logits",
    "mask",
    "dim",
    "generator",
    "num_samples",
    "tau",
    "eps",
)  # last two: torch's spelling


class Estimator(functools.partial):
    """A made estimator: call it like the function it names. Its repr can be pasted back."""

    @property
    def name(self) -> str:
        """The key in ESTIMATORS."""
        return self.func.__name__

    def __repr__(self) -> str:
        arguments = [repr(self.name), *(f"{key}={value!r}" for key, value in self.keywords.items())]
        return f"make_estimator({', '.join(arguments)})"


def make_estimator(name: str, **hyperparameters: Any) -> Estimator:
    """The estimator called `name` with hyperparameters bound, checked against its signature by one trial call.

    `reinforce` gets a MovingAverageBaseline and `relax` a RelaxControlVariate of its own unless one is given.
    Raises ValueError for an unknown name or hyperparameter (naming the valid ones) or a value out of range; TypeError for
    a value of the wrong type.

    >>> make_estimator("redge", num_steps=2, t1=0.9)
    make_estimator('redge', num_steps=2, t1=0.9)
    """
    function = ESTIMATORS[check_choice("estimator", name, ESTIMATORS)]
    valid = hyperparameter_names(function)
    for key in hyperparameters:
        if key not in valid:
            check_choice(f"hyperparameter of {name}", key, valid) if valid else None
            raise ValueError(f"unknown hyperparameter of {name} {key!r}; it has none")
    _try_once(function, hyperparameters)
    for (owner, key), factory in _OWNED.items():
        if owner == name and key not in hyperparameters:
            hyperparameters[key] = factory()
    return Estimator(function, **hyperparameters)


def hyperparameter_names(function: Callable[..., Any]) -> list[str]:
    """The keyword-only arguments of an estimator that belong to the method, not to the call."""
    return [name for name in inspect.signature(function).parameters if name not in _PER_CALL]


def fewest_samples(estimator: Callable[..., Any] | str) -> int:
    """How few samples `expectation` can be asked for with this estimator (a name, or a made one): 1, or 2."""
    name = estimator if isinstance(estimator, str) else getattr(estimator, "name", getattr(estimator, "__name__", ""))
    return 2 if name in ("rloo", "reinmax_rloo") else 1


def takes_objective(estimator: Callable[..., Any]) -> bool:
    """Whether an estimator has the form (objective, logits, …) -> loss; otherwise it is logits -> x."""
    function = estimator.func if isinstance(estimator, functools.partial) else estimator
    if function in _TAKES_OBJECTIVE:  # known without reading the signature, which torch.compile cannot trace
        return _TAKES_OBJECTIVE[function]
    return next(iter(inspect.signature(function).parameters)) == "objective"


def _try_once(function: Callable[..., Any], hyperparameters: dict[str, Any]) -> None:
    """Calls the function on a row of two classes with noise of its own, so that values out of range are found now."""
    row, generator = torch.zeros(2), torch.Generator().manual_seed(0)
    if not takes_objective(function):
        function(row, **hyperparameters, generator=generator)
    elif not any(isinstance(value, (MovingAverageBaseline, RelaxControlVariate)) for value in hyperparameters.values()):
        function(lambda x: x[..., 0], row, **hyperparameters, num_samples=2, generator=generator)
