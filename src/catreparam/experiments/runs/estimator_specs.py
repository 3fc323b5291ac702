"""Estimators as users write them, `redge:num_steps=4,t1=0.5`, and the state that some of them learn."""

import inspect
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from catreparam.estimators import (
    ESTIMATORS,
    Estimator,
    MovingAverageBaseline,
    expectation,
    fewest_samples,
    make_estimator,
)
from catreparam.validation import check_choice

Hyperparameter = bool | int | float | str | None

# What studies compare unless they are told otherwise.
MAIN_ESTIMATORS = ("straight_through", "gumbel_softmax", "reinmax", "redge", "reindge", "exact_redge")

_WORDS: dict[str, bool | None] = {"true": True, "false": False, "none": None}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INTEGER = re.compile(r"[+-]?[0-9]+")


def parse_spec(spec: str) -> tuple[str, dict[str, Hyperparameter]]:
    """Splits `name:key=value,key=value` into the name and its hyperparameters.

    A value is an integer, a number, true, false, none or a word. Raises ValueError for an unknown name, a key given
    twice, or anything that does not read as above; `make_estimator` then checks the keys and the values.

    >>> parse_spec("redge:num_steps=4,t1=0.5")
    ('redge', {'num_steps': 4, 't1': 0.5})
    """
    name, colon, rest = spec.strip().partition(":")
    check_choice("estimator", name.strip(), ESTIMATORS)
    hyperparameters: dict[str, Hyperparameter] = {}
    for item in rest.split(",") if colon else []:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not _WORD.fullmatch(key):
            raise ValueError(f"estimator {spec!r}: expected key=value after the colon, got {item!r}")
        if key in hyperparameters:
            raise ValueError(f"estimator {spec!r}: {key} is given twice")
        hyperparameters[key] = _parse_value(spec, key, value)
    return name.strip(), hyperparameters


def build_estimator(spec: str) -> Estimator:
    """A fresh estimator (with state of its own where it learns) from its spec. Raises ValueError, naming the spec."""
    name, hyperparameters = parse_spec(spec)
    try:
        return make_estimator(name, **hyperparameters)
    except (ValueError, TypeError) as error:
        raise ValueError(f"estimator {spec!r}: {error}") from error


def normalise_specs(specs: Iterable[str], *, searched: bool = False) -> tuple[str, ...]:
    """The specs in one spelling, checked. Raises ValueError for none, for a bad one, and for the same one twice.

    Hyperparameters at their defaults make no other estimator, nor does another order, unless what is not given is
    `searched`.
    """
    normal, seen = [], dict[object, str]()
    for spec in specs:
        build_estimator(spec)
        name, hyperparameters = parse_spec(spec)
        items = ",".join(f"{key}={_show(value)}" for key, value in hyperparameters.items())
        normal.append(f"{name}:{items}" if items else name)
        parameters = inspect.signature(ESTIMATORS[name]).parameters
        plain = {} if searched else {key: parameter.default for key, parameter in parameters.items()}
        given = name, frozenset((key, value) for key, value in hyperparameters.items() if plain.get(key, ...) != value)
        same = seen.setdefault(given, normal[-1])
        if normal[-1] in normal[:-1] or same != normal[-1]:
            what = "is listed twice" if same == normal[-1] else f"is the same as {same!r}"
            raise ValueError(f"estimator {normal[-1]!r} {what}; use several seeds for repeated runs")
    if not normal:
        raise ValueError(f"name at least one estimator: {', '.join(ESTIMATORS)}")
    return tuple(normal)


def entries_to_tune(specs: Iterable[str]) -> list[str | Estimator]:
    """What `tune` and `tune_training` take: a name alone, to be expanded, or an estimator with its hyperparameters.

    Raises what `normalise_specs` raises.
    """
    normal = normalise_specs(specs, searched=True)
    return [build_estimator(spec) if ":" in spec else spec for spec in normal]


def try_estimator(spec: str, shape: tuple[int, int], *, num_samples: int) -> None:
    """Raises ValueError if the estimator cannot work on codes [num_latents, num_classes] with so many samples.

    One call on a toy objective, so that the last of several estimators does not fail after hours of training.
    """
    try:
        expectation(
            lambda x: x[..., 0].sum(-1),
            torch.zeros(1, *shape, requires_grad=True),
            estimator=build_estimator(spec),
            num_samples=num_samples,
            generator=torch.Generator().manual_seed(0),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"estimator {spec!r}: {error}") from error


def samples_of(estimator: Estimator, num_samples: int) -> int:
    """The samples that an estimator gets: as many as asked for, or the fewest that it takes (rloo: 2)."""
    return max(num_samples, fewest_samples(estimator))


def learned_parameters(estimator: Estimator, device: str) -> list[nn.Parameter]:
    """Parameters that the estimator itself learns (RELAX's control variate), moved to the device, to be optimised."""
    return list(_modules(estimator).to(device).parameters())


def estimator_state(estimator: Estimator) -> dict[str, Tensor]:
    """Everything the estimator carries from step to step, by name; empty for most."""
    means = {
        key: torch.tensor([mean.total, mean.mass], dtype=torch.float64) for key, mean in _baselines(estimator).items()
    }
    return means | _modules(estimator).state_dict()


def restore_estimator(estimator: Estimator, state: dict[str, Tensor]) -> None:
    """Puts `estimator_state` back into a fresh estimator of the same spec."""
    means = _baselines(estimator)
    for key, mean in means.items():
        mean.total, mean.mass = state[key].tolist()
    _modules(estimator).load_state_dict({key: tensor for key, tensor in state.items() if key not in means})


def _modules(estimator: Estimator) -> nn.ModuleDict:
    return nn.ModuleDict({key: value for key, value in estimator.keywords.items() if isinstance(value, nn.Module)})


def _baselines(estimator: Estimator) -> dict[str, MovingAverageBaseline]:
    return {key: value for key, value in estimator.keywords.items() if isinstance(value, MovingAverageBaseline)}


def _parse_value(spec: str, key: str, text: str) -> Hyperparameter:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        if _WORD.fullmatch(text):
            return text
    raise ValueError(
        f"estimator {spec!r}: cannot read the value of {key}, {text!r}; give a number, a word, true or false"
    )


def _show(value: Hyperparameter) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
