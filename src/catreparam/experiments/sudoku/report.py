"""The report of `catreparam run sudoku`: violations, solved rates and exact matches with intervals, cost a puzzle."""

from collections.abc import Sequence

from catreparam.data.sudoku import CLUES
from catreparam.experiments.runs.configs import command_of
from catreparam.experiments.runs.folder import Record, RunFolder, finish
from catreparam.experiments.runs.statistics import wilson_interval
from catreparam.experiments.sudoku.config import FREE, Config
from catreparam.report import Column, Curve, Plot, Report, Table

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
    "Rates in per cent with 95 % Wilson intervals, over puzzles. Exact match and last: the finished board of the first "
    "attempt (without prior: a sample of the last logits). Argmax: the most probable digits of its last logits. Best "
    "so far: the board with fewest violations among everything seen on the way, in all attempts. Violations: digits "
    "missing from the 27 units of a board, ± the half-width of a 95 % interval. Every puzzle has one solution. "
    "Evaluations and processor seconds (of one thread, in batches) are per puzzle, all attempts together."
)


def report_sudoku(config: Config, folder: RunFolder) -> Report:
    """Builds the report from the metrics and writes it into the folder."""
    keys = config.keys()
    found = {(r["level"], r["prior"], r["method"]): r for r in folder.read_metrics()}
    records = [found[cell] for key in keys if (cell := tuple(key.values())) in found]
    missing = len(keys) - len(records)
    report = Report(
        title="Sudoku by gradients",
        summary=f"{config.num_puzzles} held-back puzzles of each level. With prior: {config.num_rounds} rounds of "
        f"{config.num_steps} steps, order {config.order}. "
        f"Without: {config.free_steps} steps, {config.restarts} attempts.",
        table=_table(config, records),
        plots=_plots(config, records),
        facts={"machine": folder.machine, "seed": str(config.seed)},
        command=command_of("catreparam run sudoku", config),
    )
    return finish(folder, report, unfinished=f"{missing} of {len(keys)} cells" if missing else "")


def _table(config: Config, records: Sequence[Record]) -> Table:
    """One part for every level and prior, in the order of the config."""
    rows = []
    for level, prior, mine in _groups(config, records):
        low, high = CLUES[level]
        group = f"{level} ({low} to {high} clues), {_about(prior)}"
        rows += [{"group": group, **record, **_rates(record)} for record in mine]
    return Table(COLUMNS, rows, NOTE, group="group")


def _plots(config: Config, records: Sequence[Record]) -> list[Plot]:
    """Violations of the argmax by step (without prior) or by round."""
    plots = []
    for level, prior, mine in _groups(config, records):
        curves = [Curve(r["method"], [x for x, _ in r["curve"]], [max(y, 0.01) for _, y in r["curve"]]) for r in mine]
        x_label = "step" if prior in FREE else "round"
        if curves:
            title = f"{level}, {_about(prior)}"
            plots.append(Plot(title, x_label, "violations of the argmax (number)", curves, log_y=True))
    return plots


def _groups(config: Config, records: Sequence[Record]) -> list[tuple[str, str, list[Record]]]:
    """Level, prior and their records."""
    return [
        (level, prior, [r for r in records if (r["level"], r["prior"]) == (level, prior)])
        for level in config.levels
        for prior in config.priors
    ]


def _about(prior: str) -> str:
    return FREE.get(prior, f"prior {prior}")


def _rates(record: Record) -> dict[str, str]:
    keys = ("exact", "solved_last", "solved_argmax", "solved_best")
    return {key: show_rate(record[key], record["n"]) for key in keys}


def show_rate(successes: int, trials: int) -> str:
    """A rate in per cent with its interval.

    >>> show_rate(5, 10)
    '50.0 [23.7, 76.3]'
    """
    low, high = wilson_interval(successes, trials)
    return f"{100 * successes / trials:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
