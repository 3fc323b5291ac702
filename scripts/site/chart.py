"""The chart of the README: how far each estimator is behind the best, in the worst of three trainings, nobody tuned.

python scripts/site/chart.py        # from the tables under docs/results, to docs/images/behind-the-best.svg
"""

import csv
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[2] / "docs"
TARGET = DOCS / "images" / "behind-the-best.svg"
BLUE, GREY = "#3f51b5", "#9e9e9e"


def main() -> None:
    draw(behind(), TARGET)


def behind(results: Path = DOCS / "results") -> dict[str, float]:
    """Mean test −ELBO above the best estimator's in nats, the largest over three shapes; everything at its defaults."""
    values: dict[str, dict[str, list[float]]] = {}
    with (results / "settings-four-draws.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if "second_order_weight" not in row["setting"]:
                name = row["setting"].partition(":")[0]
                values.setdefault(row["codes"], {}).setdefault(name, []).append(float(row["test"]))
    means = [{name: fmean(tests) for name, tests in of_shape.items()} for of_shape in values.values()]
    whole = {name: max(shape[name] - min(shape.values()) for shape in means) for name in means[0]}
    return dict(sorted(whole.items(), key=lambda item: item[1]))


def draw(distances: dict[str, float], target: Path) -> None:
    """Bars with their numbers, large enough for a phone."""
    style = {"svg.hashsalt": "catreparam", "svg.fonttype": "path", "font.family": "sans-serif", "font.size": 14}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
        names = list(distances)
        bars = axes.barh(names, list(distances.values()), color=[BLUE, *[GREY] * (len(names) - 1)])
        axes.bar_label(bars, fmt="%.0f", padding=4)
        axes.invert_yaxis()
        axes.set_title("Nats behind the best, worst of three, all at defaults", fontsize=15, loc="right")
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.set_xticks([])
        figure.savefig(target, metadata={"Date": None, "Creator": None}, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    main()
