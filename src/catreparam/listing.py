"""What `catreparam list` prints: what there is, and all about one of them, as wide as the terminal."""

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

from catreparam.data import DATASETS
from catreparam.estimators import ESTIMATORS
from catreparam.estimators.facts import Choice, Range, facts_of
from catreparam.experiments import STUDIES
from catreparam.usage import wrapped
from catreparam.validation import check_choice

LABEL = re.compile(r"([A-Z]\w+): +(.*)")


def everything() -> str:
    """Estimators with their hyperparameters, data sets and experiments."""
    parts = ["Estimators, given as NAME or NAME:key=value,key=value\n(catreparam list NAME tells all about one)\n"]
    for name, function in ESTIMATORS.items():
        given = ", ".join(f"{key}={value}" for key, value in defaults(name).items())
        parts += [
            wrapped(f"{name}  {given or '(no hyperparameters)'}", "  ", "      "),
            wrapped(_first_line(function), "      "),
        ]
    parts += ["\nData sets (catreparam data NAME)\n", datasets(), "\nExperiments (catreparam run NAME)\n"]
    parts += [_item(name, _first_line(importlib.import_module(module))) for name, module in _experiments().items()]
    return "\n".join(parts)


def about(name: str) -> str:
    """All about one estimator, data set or experiment. Raises ValueError if there is none of that name."""
    experiments = _experiments()
    check_choice("name", name, [*ESTIMATORS, *DATASETS, *experiments])
    if name in ESTIMATORS:
        return about_estimator(name)
    if name in DATASETS:
        return f"{reflow(DATASETS[name])}\n\n{wrapped(f'Fetch or check it: catreparam data {name}')}"
    module = importlib.import_module(experiments[name])
    return f"{reflow(module)}\n\nRun it: catreparam run {name}\nOptions: catreparam run {name} --help"


def about_estimator(name: str) -> str:
    """Signature, hyperparameters with defaults and ranges, bias, law and cost, and where its page is."""
    facts = facts_of(name)
    own = defaults(name)
    lines = [wrapped(_signature(facts.function), "", "    "), "", reflow(facts.function), ""]
    if own:
        rows = [("hyperparameter", "default", "range that sweeps search")]
        rows += [(key, str(value), _range(facts.search.get(key))) for key, value in own.items()]
        first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines += [f"{a:<{first}}  {b:<{second}}  {c}".rstrip() for a, b, c in rows] + [""]
    law = facts.law.replace("*", "").removesuffix(", below")
    lines.append(wrapped(f"Law of the hard sample: {law}. Family: {facts.family}."))
    if facts.fewest_samples > 1:
        lines.append(f"Needs num_samples={facts.fewest_samples} or more.")
    reasons: dict[str, list[str]] = {}
    for transform, why in facts.unsupported.items():
        reasons.setdefault(why, []).append(transform)
    lines += [wrapped(f"Not under {', '.join(them)}: {why}.", "", "  ") for why, them in reasons.items()]
    lines += [f"Page: docs/estimators/{name}.md", "On the command line:", f"  {_example(name)}"]
    return "\n".join(lines)


def datasets() -> str:
    """A line or two for every data set, and for the weights that `data` fetches."""
    said = {name: _first_line(loader) for name, loader in DATASETS.items()}
    said["antiberty"] = "Weights of a masked language model of antibodies (104 MB), for `guide antibody`."
    return "\n".join(_item(name, line) for name, line in said.items())


def defaults(name: str) -> dict[str, Any]:
    """The hyperparameters of an estimator with their defaults."""
    parameters = inspect.signature(ESTIMATORS[name]).parameters
    return {key: parameters[key].default for key in facts_of(name).hyperparameters}


def reflow(thing: object) -> str:
    """A docstring at the width of the terminal, without its doctests; labels like `Bias:` stay at the left."""
    text = re.sub(r"^>>>.*?(?:\n\n|\Z)", "", inspect.getdoc(thing) or "", flags=re.S | re.M).strip()
    parts: list[tuple[str, str]] = []
    for line in text.splitlines():
        found = LABEL.fullmatch(line)
        if found:
            parts.append((f"{found[1]}:", found[2]))
        elif not line.strip() or not parts:
            parts.append(("", line.strip()))
        else:
            parts[-1] = (parts[-1][0], f"{parts[-1][1]} {line.strip()}".strip())
    return "\n".join(wrapped(what, f"{label:<11}" if label else "", " " * 11 * bool(label)) for label, what in parts)


def _experiments() -> dict[str, str]:
    return {words.removeprefix("run "): module for words, module in STUDIES.items() if words.startswith("run ")}


def _signature(function: Callable[..., Any]) -> str:
    shown, star = [], False
    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown, star = [*shown, "*"], True
        shown.append(key if parameter.default is parameter.empty else f"{key}={parameter.default!r}")
    return f"catreparam.{function.__name__}({', '.join(shown)})"


def _range(space: Range | Choice | None) -> str:
    if space is None:
        return "-"
    if isinstance(space, Choice):
        return ", ".join(map(str, space.values))
    return f"{space.low} to {space.high}{', logarithmic' * space.log}"


def _example(name: str) -> str:
    searched = facts_of(name).search
    given = ",".join(f"{key}={value}" for key, value in defaults(name).items() if key in searched)
    return f"{name}:{given}" if given else name


def _item(name: str, line: str) -> str:
    return wrapped(f"{name:<16}{line}", "  ", " " * 18)


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().split("\n")[0]
