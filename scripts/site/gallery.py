"""The gallery's pictures: what each example prints, as a chart.

    python scripts/site/gallery.py                    # charts from docs/results/examples, to docs/images/gallery-*.svg
    python scripts/site/gallery.py --run black_box    # runs an example first, and keeps what it prints there

All examples together run for a quarter of an hour on one core.
"""

import argparse
import re
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
pictures = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("pictures.py"))))
PRINTED = ROOT / "docs" / "results" / "examples"
NUMBER = re.compile(r"-?\d+\.?\d*")


@dataclass(frozen=True)
class Chart:
    """Which numbers of a printed table are drawn, and how.

    Without `lines` a row of the table becomes a row of points, from the one column of `columns`; with it a line,
    whose x are the numbers in the heads of the columns (or, if there are none, the heads).
    """

    title: str
    columns: slice
    lines: bool = False
    names: int = 1  # columns that name a row
    x_label: str = ""
    keep: Callable[[str], bool] = lambda name: True


CHARTS = {
    "measure_your_loss": Chart("Squared bias, relative", slice(1, 2)),
    "black_box": Chart("Wrong letters of six", slice(2, 5), lines=True, names=2),
    "masked_choice": Chart("Loss of the plans, mean", slice(1, 2)),
    "vq_autoencoder": Chart("Error, two seeds", slice(1, 2)),
    "vector_quantizer": Chart("Error of a pixel, three seeds", slice(1, 2)),
    "moe_router": Chart("Squared error, one expert a token", slice(1, 2)),
    "pyro_mixture": Chart("Negative ELBO per point, three seeds", slice(1, 2)),
    "lightning_vae": Chart("Gradient noise over signal, step 100", slice(3, 4)),
    "hf_vector_quantizer": Chart("Contrastive loss, two seeds", slice(1, 2)),
    "guide_chain": Chart("Distance to the tilted law", slice(3, 4)),
    "guide_memory": Chart("Peak memory, MiB", slice(1, 2)),
    "law_of_redge": Chart(
        "Distance of the law from softmax(logits)",
        slice(2, 8),
        lines=True,
        names=2,
        x_label="num_steps",
        keep=lambda name: name.startswith("redge,") and name.endswith(("0.1", "0.3", "0.5")),
    ),
    "effective_weight": Chart("Weight of the second order", slice(1, 7), lines=True, x_label="t1"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws the gallery.")
    parser.add_argument("names", nargs="*", default=list(CHARTS), help="of examples")
    parser.add_argument("--run", action="store_true", help="run the examples first")
    given = parser.parse_args()
    for name in given.names:
        if given.run:
            command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            (PRINTED / f"{name}.txt").write_text(done.stdout, encoding="utf-8")
        with pictures.plt.rc_context(pictures.LOOK):
            draw(name, CHARTS[name])


def draw(name: str, chart: Chart) -> None:
    """Writes one SVG."""
    head, rows = table((PRINTED / f"{name}.txt").read_text(encoding="utf-8"))
    rows = [row for row in rows if chart.keep(label_of(row, chart))]
    height = 3.0 if chart.lines else 1.0 + 0.36 * len(rows)
    figure, axes = pictures.plt.subplots(figsize=(5.4, height), layout="constrained", num=name)
    if chart.lines:
        heads = [NUMBER.findall(cell) for cell in head[chart.columns]]
        x = [float(found[-1]) for found in heads] if all(heads) else head[chart.columns]
        for row in rows:
            axes.plot(x, [numbers(cell)[0] for cell in row[chart.columns]], marker="o", label=label_of(row, chart))
        axes.set(xlabel=chart.x_label)
        axes.legend(
            fontsize=9, title=", ".join(head[: chart.names]).replace("num_classes", "classes"), title_fontsize=9
        )
    else:
        for row in rows:
            values, name_of_row = numbers(row[chart.columns][0]), label_of(row, chart)
            colour = pictures.colour_of(estimator_in(name_of_row, pictures.METHODS) or "none")
            axes.plot(values, [textwrap.fill(name_of_row, 26)] * len(values), "o", color=colour, markersize=8)
        axes.invert_yaxis()
        axes.margins(y=0.25)
    figure.suptitle(chart.title, fontsize=12)
    pictures.save(name, ROOT / "docs" / "images" / f"gallery-{name.replace('_', '-')}.svg")


def table(text: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the first Markdown table."""
    lines = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return lines[0], [line for line in lines[1:] if not line[0].startswith("---")]


def label_of(row: list[str], chart: Chart) -> str:
    """The name of a row."""
    name = ", ".join(row[: chart.names])
    made = re.search(r"make_estimator\('(\w+)'", name)
    return made[1] if made else name


def numbers(cell: str) -> list[float]:
    """All numbers of a cell but for the width of an interval."""
    return [float(found) for found in NUMBER.findall(cell.partition("±")[0].replace("*", ""))]


def estimator_in(label: str, methods: tuple[str, ...]) -> str:
    """The longest name of a method that a label has in it."""
    return max((name for name in methods if re.search(rf"\b{name}\b", label)), key=len, default="")


if __name__ == "__main__":
    main()
