"""What callers pass that an estimator does not have: `hard` everywhere, other libraries' names with their remedy."""

import functools
import inspect
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

from catreparam.validation import check_flag


class Meaning(NamedTuple):
    """Spellings of one thing, the names that it may have here, and what to say where it has none."""

    spellings: tuple[str, ...]
    ours: tuple[str, ...]
    absent: str


MEANINGS = (
    Meaning(
        ("temperature", "tau", "temp", "T", "forward_temperature", "backward_temperature"),
        ("temperature", "backward_temperature", "t1"),
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
    ),
    Meaning(
        ("num_samples", "n_samples", "n_sample", "nsamples", "samples", "n"),
        ("num_samples",),
        "average samples by expectation(objective, logits, estimator=..., num_samples=...)",
    ),
    Meaning(
        ("weight", "second_order_weight", "lambda_", "lam", "lmbda", "w"),
        ("weight", "second_order_weight"),
        "it has no weight; leave it out",
    ),
    Meaning(("eta", "cv_weight", "rho"), ("eta",), "it has no control variate; leave it out"),
    Meaning(("dim", "axis"), ("dim",), "move the classes to the last axis: logits.movedim(dim, -1)"),
    Meaning(("generator", "rng", "seed", "key"), ("generator",), "draws follow torch.manual_seed"),
    Meaning(("eps", "epsilon"), (), "it has no effect, in torch neither; leave it out"),
)
NOTES = {
    "t1": "in (0, 1]; towards 1 it is straight-through, below it has less bias and more variance",
    "num_steps": "which counts denoiser evaluations, one less than the paper's n_steps",
    "generator": "a torch.Generator",
}


def remedy(name: str, taken: Iterable[str]) -> str:
    """What to do about an argument of that name, for an estimator that takes others."""
    taken = list(taken)
    for meaning in MEANINGS:
        if name in meaning.spellings:
            ours = next((own for own in meaning.ours if own in taken), None)
            if ours is None:
                return meaning.absent
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

    def refuse(others: dict[str, Any]) -> None:
        for key in others if "hard" in parameters else without_hard(name, others, relaxing):
            raise TypeError(f"{name} has no {key}; {remedy(key, parameters)}")

    return functools.wraps(function)(_written_out(function, parameters.values(), refuse))


def _written_out(
    function: Callable[..., Any], parameters: Iterable[inspect.Parameter], refuse: Callable[[dict[str, Any]], None]
) -> Callable[..., Any]:
    """A function with these parameters and any others, which it refuses; written as source, as that costs least."""
    head: list[str] = []
    call: list[str] = []
    names: dict[str, Any] = {"function": function, "refuse": refuse}
    for parameter in parameters:
        keyword = parameter.kind is parameter.KEYWORD_ONLY
        if keyword and "*" not in head:
            head.append("*")
        if parameter.default is parameter.empty:
            head.append(parameter.name)
        else:
            names[f"default_{parameter.name}"] = parameter.default
            head.append(f"{parameter.name}=default_{parameter.name}")
        call.append(f"{parameter.name}={parameter.name}" if keyword else parameter.name)
    lines = [f"def written({', '.join(head)}, **others):", " if others:", "  refuse(others)"]
    exec("\n".join([*lines, f" return function({', '.join(call)})"]), names)
    return names["written"]
