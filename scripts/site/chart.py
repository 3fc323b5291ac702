"""The chart of the README: how far each estimator is behind the best, in the worst of the trainings that were measured.

python scripts/site/chart.py        # from the tables under docs/results, to docs/images/behind-the-best.svg
"""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[2] / "docs"
TRAININGS = ("vae-48x2", "vae-reinmax-8x4", "vae-reinmax-4x24", "vae-48x2-longer")
TARGET = DOCS / "images" / "behind-the-best.svg"
BLUE, GREY = "#3f51b5", "#9e9e9e"


def main() -> None:
    draw(behind(), TARGET)


def behind(results: Path = DOCS / "results") -> dict[str, float]:
    """Test −ELBO above the best estimator's in nats, the largest over trainings; those measured in all of them."""
    above: dict[str, list[float]] = {}
    for training in TRAININGS:
        with (results / training / "table.csv").open(encoding="utf-8", newline="") as file:
            values = {row["estimator"].partition(":")[0]: float(row["test"]) for row in csv.DictReader(file)}
        for name, value in values.items():
            above.setdefault(name, []).append(value - min(values.values()))
    whole = {name: max(distances) for name, distances in above.items() if len(distances) == len(TRAININGS)}
    return dict(sorted(whole.items(), key=lambda item: item[1]))


def draw(distances: dict[str, float], target: Path) -> None:
    """Bars with their numbers, large enough for a phone."""
    style = {"svg.hashsalt": "catreparam", "svg.fonttype": "path", "font.family": "sans-serif", "font.size": 14}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        names = list(distances)
        bars = axes.barh(names, list(distances.values()), color=[BLUE, *[GREY] * (len(names) - 1)])
        axes.bar_label(bars, fmt="%.0f", padding=4)
        axes.invert_yaxis()
        axes.set_title("Nats behind the best, worst of four trainings", fontsize=15, loc="right")
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.set_xticks([])
        figure.savefig(target, metadata={"Date": None, "Creator": None}, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    main()
