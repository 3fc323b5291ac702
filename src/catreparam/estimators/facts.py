"""What is known of every estimator, in one record beside its function; everything else reads it here.

`@estimator(...)` stands on the public function, `resolve` finds the record again through whatever wraps that function.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast

from torch import Tensor
from torch.nn import Module

from catreparam.arguments import forgiving
from catreparam.kernels.tracing import unscriptable
from catreparam.validation import check_choice

# Families, in the order in which lists and the documentation show them.
FAMILIES = ("Through the diffusion", "Straight-through and ReinMax", "Gumbel", "Score function and exact")
PER_CALL = ("objective", "logits", "mask", "dim", "generator", "num_samples")  # arguments not of the method
PEERS = ("tau", "eps")  # torch's spelling of what has a name here


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, on a logarithmic scale if asked, whole if low is an int; a sweep tries `start` first.

    `grid`: the values that `tune` tries; none given: it leaves the hyperparameter at its default.
    """

    low: int | float
    high: int | float
    start: int | float
    log: bool = False
    grid: tuple[int | float | str, ...] = ()

    def at_edge(self, value: int | float) -> bool:
        """Whether a value lies within 2 % of an end, on the range's scale; the least count is no edge.

        >>> [Range(0.1, 2.0, 1.0, log=True).at_edge(value) for value in (0.1003, 0.2, 2.0)]
        [True, False, True]
        """
        if isinstance(self.low, int):
            return value >= self.high
        points = (self.low, self.high, value)
        low, high, at = map(math.log, points) if self.log else points
        return min(at - low, high - at) <= 0.02 * (high - low)


@dataclass(frozen=True)
class Choice:
    """One of several values; a sweep tries `start` first. `grid` as for a Range."""

    values: tuple[Any, ...]
    start: Any
    grid: tuple[Any, ...] = ()


Space = Mapping[str, Range | Choice]


@dataclass(frozen=True)
class Facts:
    """One estimator."""

    name: str
    function: Callable[..., Tensor] = field(repr=False)
    family: str = ""
    law: str = "exact"  # of the hard sample; anything else says how it differs
    takes_objective: bool = False  # (objective, logits, ...) -> loss, instead of logits -> x
    fewest_samples: int = 1
    # Whether its Jacobian, at these hyperparameters, has mean J(p): then a baseline on the upstream gradient leaves the
    # mean of the gradient alone.
    mean_jacobian: Callable[[Mapping[str, Any]], bool] = field(default=lambda hyperparameters: False, repr=False)
    search: Space = field(default_factory=dict)  # where sweeps and `tune` look
    tuned: bool = True  # whether `tune` tries it unasked
    unsupported: Mapping[str, str] = field(default_factory=dict)  # transform -> why not, and what to use instead
    owned: Mapping[str, type] = field(default_factory=dict)  # state that a made estimator holds if it is given none

    @property
    def hyperparameters(self) -> list[str]:
        """The arguments of the function that belong to the method, not to the call."""
        return [name for name in inspect.signature(self.function).parameters if name not in (*PER_CALL, *PEERS)]

    @property
    def spellings(self) -> list[str]:
        """Arguments beside them that spell one of them as torch does."""
        return [name for name in inspect.signature(self.function).parameters if name in PEERS]

    @property
    def relaxes(self) -> bool:
        """Whether hard=False gives the relaxed sample."""
        return "hard" in self.hyperparameters


ESTIMATORS: dict[str, Callable[..., Tensor]] = {}
"""Every estimator by name, in the order of lists and tables; filled when the package is imported."""
_FACTS: dict[Callable[..., Tensor], Facts] = {}
Function = TypeVar("Function", bound=Callable[..., Any])


def estimator(family: str, **facts: Any) -> Callable[[Function], Function]:
    """Enters a public function into ESTIMATORS, with its facts, and makes it `forgiving`."""
    check_choice("family", family, FAMILIES)

    def enter(function: Function) -> Function:
        name, function = function.__name__, cast(Function, forgiving(function, relaxing))
        _FACTS[function] = Facts(name, function, family, takes_objective=_asks_for_objective(function), **facts)
        ESTIMATORS[name] = function
        return unscriptable(function)

    return enter


def relaxing() -> list[str]:
    """The estimators with a relaxed sample, hard=False."""
    return [name for name, function in ESTIMATORS.items() if _FACTS[function].relaxes]


class Resolved(NamedTuple):
    """An estimator without its wrappers: the function, the hyperparameters bound to it, its facts."""

    function: Callable[..., Tensor]
    hyperparameters: Mapping[str, Any]
    facts: Facts


def resolve(estimator: str | Callable[..., Tensor]) -> Resolved:
    """What a name, a made estimator, a partial (of a partial ...), a scheduled estimator or a plain function comes to.

    A function that is not in ESTIMATORS has the facts that its signature shows.
    Raises: ValueError for an unknown name, TypeError for anything that cannot be called.
    """
    if isinstance(estimator, str):
        function = ESTIMATORS[check_choice("estimator", estimator, ESTIMATORS)]
        return Resolved(function, {}, _FACTS[function])
    if not callable(estimator):
        raise TypeError(f"estimator must be a name or a callable, got {estimator!r}; see make_estimator")
    inner: Any = estimator
    hyperparameters: dict[str, Any] = {}
    while True:
        if isinstance(inner, functools.partial):
            hyperparameters = {**inner.keywords, **hyperparameters}  # the outer one wins
            inner = inner.func
        elif hasattr(inner, "current_estimator"):
            inner = inner.current_estimator()
        else:
            return Resolved(inner, hyperparameters, _facts_of_function(inner))


def facts_of(estimator: str | Callable[..., Tensor]) -> Facts:
    """The facts of an estimator, however it is given. Raises as `resolve`."""
    return resolve(estimator).facts


def takes_argument(function: Callable[..., Any], name: str) -> bool:
    """Whether a function can be handed a keyword argument of that name; not if it has no signature."""
    try:
        # the call of a module takes anything
        parameters = inspect.signature(function.forward if isinstance(function, Module) else function).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _facts_of_function(function: Callable[..., Tensor]) -> Facts:
    if function in _FACTS:  # known without reading the signature, which torch.compile cannot trace
        return _FACTS[function]
    name = getattr(function, "__name__", type(function).__name__)
    return Facts(name, function, takes_objective=_asks_for_objective(function))


def _asks_for_objective(function: Callable[..., Any]) -> bool:
    return next(iter(inspect.signature(function).parameters)) == "objective"
