"""What a page says in a section and in its tables, and the tables under docs/results that it was measured in."""

import csv
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def csv_rows(name: str) -> list[dict[str, str]]:
    """A table under docs/results."""
    return list(csv.DictReader((ROOT / "docs/results" / name).read_text("utf-8").splitlines()))


def rows_of(text: str) -> dict[str, list[str]]:
    """The rows of all tables by their first cell, without what follows the estimator's name in it."""
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in re.findall(r"^\|.*\|$", text, re.M)]
    return {re.split("[:,]", cells[0].replace("`", ""))[0]: cells[1:] for cells in lines}


def whole_section(page: str, title: str) -> str:
    """A section of a page, with what is folded away."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.split(r"^## ", text.partition(f"## {title}\n")[2], flags=re.M)[0]


def section(page: str, title: str) -> str:
    """A section of a page, up to the first part that is folded away."""
    return re.split(r"^\?\?\? ", whole_section(page, title), flags=re.M)[0]


def table_in_full(page: str, title: str, start: str) -> list[list[str]]:
    """As `table_under`, of what is folded away too."""
    return table_in(whole_section(page, title), start)


def table_under(page: str, title: str, start: str) -> list[list[str]]:
    """The cells of the table of a section whose head begins so, without head and rule."""
    return table_in(section(page, title), start)


def table_in(text: str, start: str) -> list[list[str]]:
    """The cells of the one table whose head begins so."""
    tables = re.findall(r"(?:^ *\|.*\n)+", text, re.M)
    (table,) = [found for found in tables if found.lstrip().startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]


def plus_or_minus(found: dict[str, float | None], value: str, half: str) -> str:
    return f"{found[value]:.2f}" + ("" if found[half] is None else f" ± {found[half]:.2f}")
