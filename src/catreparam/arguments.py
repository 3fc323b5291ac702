"""What callers pass that an estimator does not have: `hard` everywhere, other libraries' names with their remedy."""

import functools
import inspect
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar, cast

from catreparam.validation import check_flag

Function = TypeVar("Function", bound=Callable[..., Any])


class Meaning(NamedTuple):
    """Spellings of one thing, the names that it may have here, what to say where it has none, and in JAX."""

    spellings: tuple[str, ...]
    ours: tuple[str, ...]
    absent: str
    in_jax: str = ""


MEANINGS = (
    Meaning(
        ("temperature", "tau", "temp", "T", "forward_temperature", "backward_temperature"),
        ("temperature", "backward_temperature", "t1", "temp"),
        "it has no temperature; leave it out",
    ),
    Meaning(("t1", "t_1", "t_min"), ("t1",), "it runs no diffusion; leave it out"),
    Meaning(
        ("num_steps", "n_steps", "nsteps", "steps", "num_timesteps", "n_timesteps", "num_diffusion_steps"),
        ("num_steps",),
        "it takes no steps; leave it out",
    ),
    Meaning(
        ("num_noises", "K", "k", "n_noises", "num_mc", "n_mc", "mc_samples"),
        ("num_noises", "num_samples"),
        "it draws one noise; average samples by expectation(objective, logits, estimator=..., num_samples=...)",
        "it draws one noise; average over keys by jax.vmap",
    ),
    Meaning(
        ("num_samples", "n_samples", "n_sample", "nsamples", "samples", "n"),
        ("num_samples",),
        "average samples by expectation(objective, logits, estimator=..., num_samples=...)",
        "average over keys by jax.vmap",
    ),
    Meaning(
        ("weight", "second_order_weight", "lambda_", "lam", "lmbda", "w"),
        ("weight", "second_order_weight"),
        "it has no weight; leave it out",
    ),
    Meaning(("eta", "cv_weight", "rho"), ("eta",), "it has no control variate; leave it out"),
    Meaning(("dim", "axis"), ("dim", "axis"), "move the classes to the last axis: logits.movedim(dim, -1)"),
    Meaning(("generator", "rng", "seed", "key"), ("generator", "key"), "draws follow torch.manual_seed"),
    Meaning(("eps", "epsilon"), (), "it has no effect, in torch neither; leave it out"),
)
# What belongs to an estimator, not to what calls it.
SETTINGS = (
    *("temperature", "t1", "num_steps", "num_noises", "weight", "second_order_weight", "eta"),
    *("grid", "solver", "hard", "gap", "forward_temperature", "backward_temperature"),
)
NOTES = {
    "t1": "in (0, 1]; towards 1 it is straight-through, below it has less bias and more variance",
    "num_steps": "which counts denoiser evaluations, one less than the paper's n_steps",
    "generator": "a torch.Generator",
    "key": "such as jax.random.key(0)",
}


def remedy(name: str, taken: Iterable[str]) -> str:
    """What to do about an argument of that name, for an estimator that takes others."""
    taken = list(taken)
    for meaning in MEANINGS:
        if name in meaning.spellings:
            ours = next((own for own in meaning.ours if own in taken), None)
            if ours is None:
                return (meaning.in_jax if "key" in taken else "") or meaning.absent
            return f"use {ours}, {NOTES[ours]}" if ours in NOTES else f"use {ours}"
    spellings = (spelling for meaning in MEANINGS for spelling in meaning.spellings)
    near = get_close_matches(name.lower(), [*taken, *spellings], n=1)
    if near and near[0] not in taken:
        return remedy(near[0], taken)
    return f"did you mean {near[0]}?" if near else f"it takes: {', '.join(taken) or 'none'}"


def without_hard(estimator: str, keywords: dict[str, Any], relaxing: Callable[[], Collection[str]]) -> dict[str, Any]:
    """The keywords for an estimator whose samples are always hard. Raises ValueError for hard=False."""
    if not check_flag("hard", keywords.get("hard", True)):
        raise ValueError(
            f"{estimator} has no relaxed sample: leave hard=False out, or use one of {', '.join(relaxing())}"
        )
    return {name: value for name, value in keywords.items() if name != "hard"}


def forgiving(function: Callable[..., Any], relaxing: Callable[[], Collection[str]]) -> Callable[..., Any]:
    """The function, which also takes hard=True, and answers a name that it does not have with the remedy.

    Its signature, name and pickles stay those of the function. `relaxing` names the estimators with hard=False.
    """
    name, parameters = function.__name__, inspect.signature(function).parameters

    def refuse(positions: tuple[Any, ...], others: dict[str, Any]) -> None:
        if positions:
            note = "; positions as torch's gumbel_softmax has them are those of gumbel_softmax alone"
            raise TypeError(_too_many(name, parameters.values(), len(positions)) + note)
        for key in others if "hard" in parameters else without_hard(name, others, relaxing):
            raise TypeError(f"{name} has no {key}; {remedy(key, parameters)}")

    return functools.wraps(function)(_written_out(function, parameters.values(), refuse))


def hands_on(function: Function) -> Function:
    """A function or constructor with an argument `estimator`, which says of the estimator's settings where they go."""
    parameters = inspect.signature(function).parameters

    def refuse(positions: tuple[Any, ...], others: dict[str, Any], owner: object = None) -> None:
        name = function.__name__ if owner is None else type(owner).__name__
        if positions:
            raise TypeError(_too_many(name, parameters.values(), len(positions)))
        for key in others:
            raise TypeError(f"{name} has no {key}; {_where(key, [key for key in parameters if key != 'self'])}")

    return cast(Function, functools.wraps(function)(_written_out(function, parameters.values(), refuse)))


def _where(key: str, taken: list[str]) -> str:
    """`remedy`, for something that hands settings on to an estimator."""
    spellings = {spelling: meaning.ours for meaning in MEANINGS for spelling in meaning.spellings}
    if key not in {*spellings, *taken, *SETTINGS}:
        key = next(iter(get_close_matches(key.lower(), [*taken, *spellings, *SETTINGS], n=1)), key)
    ours = (key,) if key in SETTINGS else spellings.get(key, (key,))
    if ours[0] not in SETTINGS or set(spellings.get(key, ours)) & set(taken):
        return remedy(key, taken)
    return f"it belongs to the estimator: estimator=make_estimator(name, {ours[0]}=...), in JAX partial(function, ...)"


def _too_many(name: str, parameters: Iterable[inspect.Parameter], surplus: int) -> str:
    """What to say of arguments given by position to a function that takes them by name."""
    named = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    taken = [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    taken = [name for name in taken if name != "self"]
    return f"{name} takes {', '.join(taken)} by position, got {surplus} more; give the rest by name: {', '.join(named)}"


def _written_out(
    function: Callable[..., Any],
    parameters: Iterable[inspect.Parameter],
    refuse: Callable[..., None],
) -> Callable[..., Any]:
    """A function with these parameters and any others, which it refuses (a method's with its self).

    It is written as source, as that costs least.
    """
    head: list[str] = []
    call: list[str] = []
    names: dict[str, Any] = {"function": function, "refuse": refuse}
    for parameter in parameters:
        keyword = parameter.kind is parameter.KEYWORD_ONLY
        if keyword and "*positions" not in head:
            head.append("*positions")
        if parameter.default is parameter.empty:
            head.append(parameter.name)
        else:
            names[f"default_{parameter.name}"] = parameter.default
            head.append(f"{parameter.name}=default_{parameter.name}")
        call.append(f"{parameter.name}={parameter.name}" if keyword else parameter.name)
    owner = ", self" if head[0] == "self" else ""
    lines = [
        f"def written({', '.join(head)}, **others):",
        " if positions or others:",
        f"  refuse(positions, others{owner})",
    ]
    exec("\n".join([*lines, f" return function({', '.join(call)})"]), names)
    return names["written"]
