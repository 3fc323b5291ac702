"""The Sudoku study as tables and plots: violations, solved rates and exact matches with 95 % intervals, cost a puzzle."""

from collections.abc import Sequence

from catreparam.experiments.runs.folder import Record
from catreparam.experiments.runs.statistics import wilson_interval
from catreparam.report import Column, Curve, Plot, Table

COLUMNS = (
    Column("method", "estimator"),
    Column("exact", "exact match", ""),
    Column("solved_last", "solved: last", ""),
    Column("solved_argmax", "argmax", ""),
    Column("solved_best", "best so far", ""),
    Column("violations", "violations: last", ".2f", "violations_half"),
    Column("violations_best", "best so far", ".2f"),
    Column("seconds", "CPU s / puzzle", ".3f"),
    Column("model", "model evaluations", ".0f"),
    Column("reward", "penalty evaluations", ".0f"),
    Column("n", "n"),
)
NOTE = (
    "Rates in per cent with 95 % Wilson intervals, over puzzles. Exact match and last: the finished board of the first attempt "
    "(without prior: a sample of the last logits). Argmax: the most probable digits of its last logits. Best so far: the board "
    "with fewest violations among everything seen on the way, in all attempts. Violations: digits missing from the 27 units of "
    "a board, ± the half-width of a 95 % interval. Every puzzle has one solution. Evaluations and processor seconds (of one "
    "thread, in batches) are per puzzle, all attempts together."
)


def show_rate(successes: int, trials: int) -> str:
    """A rate in per cent with its interval.

    >>> show_rate(5, 10)
    '50.0 [23.7, 76.3]'
    """
    low, high = wilson_interval(successes, trials)
    return f"{100 * successes / trials:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def table_of(records: Sequence[Record], levels: dict[str, tuple[int, int]], priors: dict[str, str]) -> Table:
    """One part for every level and prior, in the order of the config."""
    rows = []
    for level, (low, high) in levels.items():
        for prior, about in priors.items():
            group = f"{level} ({low} to {high} clues), {about}"
            mine = [r for r in records if r["level"] == level and r["prior"] == prior]
            rows += [{"group": group, **_row(record)} for record in mine]
    return Table(COLUMNS, rows, NOTE, group="group")


def plots_of(records: Sequence[Record], levels: Sequence[str], priors: dict[str, str]) -> list[Plot]:
    """Violations of the argmax by step (without prior) or by round."""
    plots = []
    for level in levels:
        for prior, about in priors.items():
            mine = [r for r in records if r["level"] == level and r["prior"] == prior]
            curves = [
                Curve(r["method"], [x for x, _ in r["curve"]], [max(y, 0.01) for _, y in r["curve"]]) for r in mine
            ]
            x_label = "step" if prior.startswith("none") else "round"
            if curves:
                plots.append(Plot(f"{level}, {about}", x_label, "violations of the argmax", curves, log_y=True))
    return plots


def _row(record: Record) -> Record:
    row = {key: show_rate(record[key], record["n"]) for key in ("exact", "solved_last", "solved_argmax", "solved_best")}
    kept = ("method", "violations", "violations_half", "violations_best", "seconds", "model", "reward", "n")
    return {**{key: record[key] for key in kept}, **row}
