"""Copies the study of guided antibody design from its run folders into docs/results/antibody.

python scripts/antibody_results.py [FOLDER OF RUNS, default runs]

The runs are those of `catreparam guide antibody --preset study-charge` (-liabilities, -hydropathy), finished or not.
"""

import sys
from dataclasses import replace
from pathlib import Path

from catreparam.experiments.guide.antibody.report import EQUAL_KL
from catreparam.experiments.guide.antibody.study import report_folder
from catreparam.experiments.guide.methods import is_gradient_method
from catreparam.report import Column, Report, Table, to_csv, to_markdown
from catreparam.report.figures import plot_to_svg
from catreparam.report.text import table_to_csv, table_to_markdown

RESULTS = Path("docs/results/antibody")
TASKS = {"charge": "net charge 8", "liabilities": "no liabilities, charge kept", "hydropathy": "hydropathy −1"}


def main(runs: Path) -> None:
    """Writes a table, its CSV, the designs and a figure for every task, and one table over all of them."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, str | float | None]] = {}
    columns = [Column("method", "method")]
    for task, title in TASKS.items():
        report = report_folder(runs / f"antibody-{task}")
        write_task(task, report)
        kl, values = value_by_method(report)
        where = f", at a KL of {kl:.1f} nats" if kl else ""
        columns.append(Column(task, f"{title}{where}", ".1f", f"{task}_half"))
        for method, (value, half) in values.items():
            rows.setdefault(method, {"method": method}).update({task: value, f"{task}_half": half})
    table = Table(columns, list(rows.values()))
    (RESULTS / "summary.md").write_text(f"# Guided antibody design: summary\n\n{table_to_markdown(table)}\n", "utf-8")
    (RESULTS / "summary.csv").write_text(table_to_csv(table), "utf-8")


def write_task(task: str, report: Report) -> None:
    """The files of one task."""
    report = replace(report, command=f"catreparam guide antibody --preset study-{task}")
    (RESULTS / f"{task}.md").write_text(to_markdown(report), "utf-8")
    (RESULTS / f"{task}.csv").write_text(to_csv(report), "utf-8")
    if EQUAL_KL in report.appendix:
        (RESULTS / f"{task}-at-equal-kl.csv").write_text(table_to_csv(report.appendix[EQUAL_KL]), "utf-8")
    (RESULTS / f"{task}-designs.csv").write_text(table_to_csv(report.appendix["Designs"]), "utf-8")
    plot = report.plots[0]
    labels = list(dict.fromkeys(curve.label for curve in plot.curves))
    (RESULTS / f"{task}.svg").write_text(plot_to_svg(plot, labels), "utf-8")


def value_by_method(report: Report) -> tuple[float | None, dict[str, tuple[float, float]]]:
    """The middle one of the equal KLs and the reward of every method there, with its half-width, best first.

    Methods without a knob for the KL follow, at their budget (the best of their weights); None where no KL is equal.
    """
    at_equal = report.appendix[EQUAL_KL].rows if EQUAL_KL in report.appendix else []
    kls = sorted({row["kl"] for row in at_equal})
    middle = kls[len(kls) // 2] if kls else None
    found = {row["method"]: row for row in at_equal if row["kl"] == middle}
    for row in sorted(report.table.rows, key=lambda row: -row["reward"]):
        if not is_gradient_method(row["method"]):
            found.setdefault(row["method"], row)
    return middle, {method: (row["reward"], row["reward_half"]) for method, row in found.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
