"""mkdocs hook: the pages that list estimators follow the facts beside each of them (catreparam.estimators.facts).

It adds every estimator's page to the navigation, under its family, and fills in two places: the table of
docs/estimators.md, from the heads of the pages, and the signatures of docs/api/estimators.md. A page that is missing or
incomplete stops the build with a message that says what to write.
"""

import inspect
import itertools
import re
import sys
from pathlib import Path
from typing import Any

from catreparam.estimators.facts import ESTIMATORS, FAMILIES, Facts, facts_of

HEADINGS = ("Idea", "Gradient", "When not to use it", "Use", "References")
ROWS = ("Bias", "Law of x", "Cost")
DOCS = Path(__file__).parents[2] / "docs"
MARK = re.compile(r"<!-- estimators: (.+?) -->.*")


def on_config(config: Any) -> Any:
    """Called by mkdocs once: fills in the navigation, or says what is wrong with the pages."""
    from mkdocs.exceptions import PluginError

    docs = Path(config["docs_dir"])
    if problems := [problem for name in ESTIMATORS if (problem := problem_with_page(name, docs))]:
        raise PluginError("\n".join(problems))
    (section,) = [entry["Estimators"] for entry in config["nav"] if "Estimators" in entry]
    section += [{family: [f"estimators/{facts.name}.md" for facts in members]} for family, members in families()]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of every page: replaces a line that starts with `<!-- estimators: WHAT -->`."""
    return MARK.sub(lambda found: FILLED[found[1]](), markdown)


def problem_with_page(name: str, docs: Path) -> str:
    """What is wrong with an estimator's page, and what to write; empty if nothing is."""
    page = docs / "estimators" / f"{name}.md"
    wanted = (
        f"a title that starts with `{name}`; above it, between two lines of ---, gradient and bias in few words each; "
        f"the headings {', '.join(HEADINGS)}; under Gradient a table with the rows "
        f"{', '.join(ROWS)}, and the figure assets/estimators/{name}.svg, made by "
        f"`python scripts/site/figures.py {name}`"
    )
    if not page.exists():
        return f"{page} is missing. Write it, with {wanted}. {docs / 'estimators' / 'redge.md'} shows how."
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    absent = [heading for heading in HEADINGS if heading not in headings]
    absent += [f"| {row} |" for row in ROWS if f"| {row} |" not in text]
    absent += [f"{key}: ..." for key in ("gradient", "bias") if not in_short(text, key)]
    absent += [f"# `{name}`"] * (not headings or not headings[0].startswith(f"`{name}`"))
    absent += [f"../assets/estimators/{name}.svg"] * (f"../assets/estimators/{name}.svg" not in text)
    if not absent and not (docs / "assets" / "estimators" / f"{name}.svg").exists():
        return f"{page} shows a figure that is missing: python scripts/site/figures.py {name}"
    return f"{page} lacks {', '.join(absent)}. It needs {wanted}." if absent else ""


def families() -> list[tuple[str, list[Facts]]]:
    """Every family that has estimators, in order, with the facts of each."""
    all_facts = [facts_of(name) for name in ESTIMATORS]
    groups = [(family, [facts for facts in all_facts if facts.family == family]) for family in FAMILIES]
    return [(family, members) for family, members in groups if members]


def table(docs: Path = DOCS) -> str:
    """Gradient, bias and law of each; neighbours of which the same is said share a row."""
    lines = ["| name | gradient | bias | law of x |", "|---|---|---|---|"]

    def said_of(facts: Facts) -> tuple[str, str, str]:
        page = docs / "estimators" / f"{facts.name}.md"
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        return in_short(text, "gradient"), in_short(text, "bias"), facts.law

    for said, members in itertools.groupby(map(facts_of, ESTIMATORS), said_of):
        names = ", ".join(f"[`{facts.name}`](estimators/{facts.name}.md)" for facts in members)
        lines.append(f"| {' | '.join((names, *said))} |")
    return "\n".join(lines)


def in_short(text: str, key: str) -> str:
    """What the head of a page says of `key`; empty if nothing."""
    found = re.search(rf'\A---\n(?:.*\n)*?{key}: "(.*)"\n', text)
    return found[1].replace('\\"', '"') if found else ""


def signatures(takes_objective: bool) -> str:
    """What mkdocstrings is to show: each function, its surrogate, and the state that it owns."""
    shown: list[Any] = []
    for facts in map(facts_of, ESTIMATORS):
        if facts.takes_objective == takes_objective:
            module = sys.modules[facts.function.__module__]
            surrogate = getattr(module, f"{facts.name}_surrogate", None)
            shown += [facts.function, *([surrogate] if inspect.isfunction(surrogate) else []), *facts.owned.values()]
    return "\n\n".join(f"::: {thing.__module__}.{thing.__qualname__}" for thing in shown)


FILLED = {
    "table": table,
    "signatures of logits -> x": lambda: signatures(takes_objective=False),
    "signatures of objective, logits -> loss": lambda: signatures(takes_objective=True),
}
