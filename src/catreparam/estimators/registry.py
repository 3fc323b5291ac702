"""Every estimator by name, and made estimators: a name with hyperparameters, checked, picklable, printable."""

import functools
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from catreparam.arguments import remedy, without_hard
from catreparam.estimators.facts import ESTIMATORS, PER_CALL, Facts, facts_of, relaxing, resolve
from catreparam.kernels.tracing import refuse_script, unrecorded
from catreparam.validation import check_choice

# The order in which lists and tables show them; an estimator that is not named here follows.
ORDER = (
    *("straight_through", "gumbel_softmax", "gumbel_rao", "gapped_straight_through", "decoupled_straight_through"),
    *("reinmax", "reinmax_rao", "reinmax_cv", "lambda_reinmax"),
    *("redge", "redge_cov", "reindge", "exact_redge", "transport_redge"),
    *("exact", "reinforce", "rloo", "arsm", "rebar", "relax", "unbiased_redge", "reinmax_rloo"),
)


class Estimator(functools.partial):
    """A made estimator: call it like the function it names. Its repr can be pasted back."""

    @property
    def name(self) -> str:
        """The key in ESTIMATORS."""
        return self.func.__name__

    __name__ = name  # torch.jit.trace asks for it
    __prepare_scriptable__ = refuse_script

    def __repr__(self) -> str:
        arguments = [repr(self.name), *(f"{key}={value!r}" for key, value in self.keywords.items())]
        return f"make_estimator({', '.join(arguments)})"


def make_estimator(name: str, **hyperparameters: Any) -> Estimator:
    """The estimator called `name` with hyperparameters bound, checked against its signature by one trial call.

    `reinforce` gets a MovingAverageBaseline and `relax` a RelaxControlVariate of its own unless one is given. Raises
    ValueError for an unknown name or hyperparameter (naming the valid ones) or a value out of range; TypeError for a
    value of the wrong type.

    >>> make_estimator("redge", num_steps=2, t1=0.9)
    make_estimator('redge', num_steps=2, t1=0.9)
    """
    facts = facts_of(check_choice("estimator", name, ESTIMATORS))
    if not facts.relaxes:
        hyperparameters = without_hard(name, hyperparameters, relaxing)
    for key in hyperparameters:
        if key not in (*facts.hyperparameters, *facts.spellings):
            advice = "it belongs to the call" if key in PER_CALL else remedy(key, facts.hyperparameters)
            raise ValueError(f"unknown hyperparameter of {name} {key!r}; {advice}")
    default = torch.get_default_device()
    with unrecorded(), torch.device("cpu" if default.type == "meta" else default):  # state has values always
        _try_once(facts, hyperparameters)
        state = {key: kind() for key, kind in facts.owned.items() if key not in hyperparameters}
    return Estimator(facts.function, **hyperparameters, **state)


def fewest_samples(estimator: Callable[..., Any] | str) -> int:
    """How few samples `expectation` can be asked for with this estimator (a name, or a made one): 1, or 2."""
    return facts_of(estimator).fewest_samples


def takes_objective(estimator: Callable[..., Any]) -> bool:
    """Whether an estimator has the form (objective, logits, …) -> loss; otherwise it is logits -> x."""
    return facts_of(estimator).takes_objective


def collect(package: str, namespace: dict[str, Any], also: Iterable[str]) -> None:
    """Imports every file of a package of estimators, orders ESTIMATORS, and puts what they export into `namespace`.

    Exported are the functions, their surrogates, the classes of the state they own, and the names in `also`.
    """
    for found in pkgutil.iter_modules(namespace["__path__"]):
        importlib.import_module(f"{package}.{found.name}")
    places = {name: place for place, name in enumerate(ORDER)}
    for name in sorted(ESTIMATORS, key=lambda name: places.get(name, len(places))):
        ESTIMATORS[name] = function = ESTIMATORS.pop(name)
        beside = vars(sys.modules[function.__module__]).get(f"{name}_surrogate")
        exports = [function, *resolve(name).facts.owned.values(), *([] if beside is None else [beside])]
        namespace |= {export.__name__: export for export in exports}
        also = [*also, *(export.__name__ for export in exports)]
    namespace["__all__"] = sorted(set(also))


def _try_once(facts: Facts, hyperparameters: dict[str, Any]) -> None:
    """Calls the function on a row of two classes with noise of its own, so that values out of range are found now."""
    row, generator = torch.zeros(2, device="cpu"), torch.Generator().manual_seed(0)
    if not facts.takes_objective:
        for end in ("amin", "amax"):  # values per row wait for their logits
            ends = {key: _end_of(value, end) for key, value in hyperparameters.items()}
            facts.function(row, **ends, generator=generator)
    elif not any(isinstance(hyperparameters.get(key), kind) for key, kind in facts.owned.items()):
        facts.function(lambda x: x[..., 0], row, **hyperparameters, num_samples=2, generator=generator)


def _end_of(value: Any, end: str) -> Any:
    """The least or largest of a tensor's values, on the CPU; anything else as it is."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_nested or value.is_meta)
    return getattr(value, end)().cpu() if plain and value.numel() and not value.is_complex() else value
