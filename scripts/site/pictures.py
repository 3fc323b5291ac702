"""The pictures of pages whose own code draws them: runs a page's Python blocks and saves the figures that it names.

    python scripts/site/pictures.py                    # all pages that name figures
    python scripts/site/pictures.py guides/guidance    # some

A figure made by `plt.subplots(num="NAME")` goes to docs/images/<page>-NAME.svg. A line whose label is a method's name
has that method's colour, as in every report.
"""

import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from catreparam import ESTIMATORS
from catreparam.report.figures import LINE_STYLES, MARKERS, STYLE, colour_of

DOCS = Path(__file__).parents[2] / "docs"
METHODS = (*ESTIMATORS, "best_of_n", "svdd", "smc")
LOOK = {**STYLE, "svg.hashsalt": "catreparam", "svg.fonttype": "path", "font.size": 11, "figure.facecolor": "white"}


def main() -> None:
    wanted = [DOCS / f"{name}.md" for name in sys.argv[1:]]
    for page in wanted or pages():
        with plt.rc_context(LOOK):
            draw(page)


def pages() -> list[Path]:
    """Those whose Python blocks name figures; notebooks have pages of their own (notebooks.py)."""
    return [page for page in sorted(DOCS.rglob("*.md")) if page.parent.name != "notebooks" and figures_of(page)]


def figures_of(page: Path) -> list[str]:
    """The names of the figures that a page's code draws."""
    return re.findall(r'\bnum="([\w-]+)"', page.read_text(encoding="utf-8"))


def draw(page: Path) -> None:
    """Writes an SVG for every named figure of a page."""
    names: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M):
        exec(compile(block, str(page), "exec"), names)
    for name in figures_of(page):
        save(name, target_of(page, name))


def save(name: str, target: Path) -> str:
    """Writes the open figure of this name as an SVG; returns the titles of its axes."""
    figure = plt.figure(name)
    for axes in figure.axes:
        colour(axes)
    figure.savefig(target, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return ", ".join(title for axes in figure.axes if (title := axes.get_title()))


def target_of(page: Path, name: str) -> Path:
    """Where the figure of a page goes."""
    return DOCS / "images" / f"{page.stem}-{name}.svg"


def colour(axes: Any) -> None:
    """Gives the lines of methods their colours, in the legend too; those of one colour differ in their mark."""
    lines = [line for line in axes.lines if re.split("[, ]", str(line.get_label()))[0] in METHODS]
    colours = [colour_of(str(line.get_label())) for line in lines]
    legend = axes.get_legend()
    keys = {key.get_label(): key for key in legend.legend_handles} if legend else {}
    for place, line in enumerate(lines):
        before = colours[:place].count(colours[place])
        points = line.get_linestyle() == "None"
        look = {"marker": MARKERS[before % 4]} if points else {"linestyle": LINE_STYLES[before % 4]}
        line.set(color=colours[place], **look)
        if key := keys.get(line.get_label()):
            key.set(color=colours[place], **look)


if __name__ == "__main__":
    main()
