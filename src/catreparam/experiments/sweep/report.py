"""From the lines of a sweep to its report: what won with which setting, how sure that is, and how the search went."""

from statistics import fmean

from catreparam.estimators.facts import Range
from catreparam.experiments.runs.configs import command_of
from catreparam.experiments.runs.estimator_specs import parse_spec
from catreparam.experiments.runs.folder import Record, RunFolder
from catreparam.experiments.runs.statistics import band_curves, compare
from catreparam.experiments.sweep.chosen import Chosen, chosen_for, finals_of
from catreparam.experiments.sweep.plan import Study, Sweep, searched
from catreparam.experiments.sweep.spaces import spec_at
from catreparam.report import Column, Curve, Plot, Report, Table

CURVE_TITLES = {
    "validation_negative_elbo": "Validation −ELBO",
    "test_negative_elbo": "Test −ELBO",
    "train_negative_elbo": "Train −ELBO",
    "gap": "Gap to the optimum",
}
EXTRAS = (  # measured by some studies in their final runs
    Column("train", "train", ".3f"),
    Column("kl", "KL (test)", ".2f"),
    Column("iwae", "IWAE (test, last epoch)", ".2f"),
    Column("active_latents", "active latents", ".1f"),
    Column("own_loss", "its samples' loss", ".5f"),
    Column("best_epoch", "best epoch", ".0f"),
    Column("seconds_per_epoch", "seconds / epoch", ".2f"),
    Column("milliseconds_per_gradient", "ms / gradient", ".2f"),
)
FLOOR = 1e-8  # of logarithmic plots
NOTE = (
    "Every estimator with its best setting of the search, chosen by validation values; values with fresh seeds. ± is "
    "half the 95 % interval over three seeds or more (Student's t); differences to the best are paired by seed and "
    "not corrected for the number of comparisons."
)
EDGE_NOTE = (
    " At an edge of its range: a better value may lie beyond. Fix one by hand to see: gumbel_softmax:temperature=0.05."
)
SEARCH_NOTE = (
    "Validation values of the best search trial of each estimator: the choice has made them a little too good."
)


def build_report(sweep: Sweep, folder: RunFolder) -> Report:
    """The whole report from what the folder holds."""
    records, study = folder.read_metrics(), sweep.study
    finals = {spec: _finals(sweep, records, spec) for spec in sweep.config.estimators}
    first = {spec: runs[0] for spec, runs in finals.items() if runs}
    return Report(
        title=f"Sweep of the {study.name} study",
        summary=_summary(sweep),
        table=_final_table(sweep, records, finals),
        plots=[*_curves(study, finals), *_sensitivity(sweep, records), *_history(sweep, records)],
        grids=study.grids(first, folder.path) if study.grids else (),
        appendix=_appendix(sweep, finals, records),
        facts={**study.facts, **_facts(sweep), "machine": folder.machine},
        command=command_of(f"catreparam sweep {study.name}", sweep.config),
    )


def _summary(sweep: Sweep) -> str:
    config = sweep.config
    parts = [f"{len(config.estimators)} estimators"]
    if sweep.given is None:
        parts.append(f"up to {config.num_trials} search trials each")
    if config.seeds:
        parts.append(f"{len(config.seeds)} final runs with the best setting of each")
    return f"{', '.join(parts)}. {sweep.study.value_title}: lower is better."


def _appendix(sweep: Sweep, finals: dict[str, list[Record]], records: list[Record]) -> dict[str, Table]:
    tables = {}
    if sweep.config.seeds:
        tables["Final runs in detail"] = _detail_table(finals)
    if sweep.given is None:
        tables["Search trials"] = _search_table(sweep, records)
    return tables


def _final_table(sweep: Sweep, records: list[Record], finals: dict[str, list[Record]]) -> Table:
    compared = compare({spec: {r["number"]: r["test"] for r in runs} for spec, runs in finals.items()})
    rows = [_final_row(sweep, records, spec, runs, compared.get(spec, {})) for spec, runs in finals.items()]
    rows.sort(key=lambda row: (row.get("test", float("inf")), row.get("validation", float("inf"))))
    number = ".6f" if sweep.study.log_y else ".2f"
    columns = [
        Column("estimator", "estimator"),
        Column("test", sweep.study.value_title, number, "test_ci", lowest_is_best=True),
        Column("difference", "difference to the best", number, "difference_ci"),
        Column("validation", "validation", number),
        Column("seeds", "seeds"),
        Column("lr", "learning rate", ".2e"),
        Column("setting", "setting"),
        Column("edge", "at an edge of its range"),
        Column("state", "state", stays=True),
    ]
    dull = {c.key for c in columns if all(row.get(c.key) in (None, "done") for row in rows)}
    if all(row.get("validation") == row.get("test") for row in rows):
        dull.add("validation")  # closed form: the same number
    if not sweep.config.seeds:
        dull.add("seeds")
    note = NOTE if sweep.config.seeds else SEARCH_NOTE
    note += EDGE_NOTE * any(row.get("edge") for row in rows)
    return Table([column for column in columns if column.key not in dull], rows, note)


def _final_row(sweep: Sweep, records: list[Record], spec: str, runs: list[Record], compared: Record) -> Record:
    row: Record = {"estimator": spec, "state": _state(sweep, records, spec), "seeds": len(runs)}
    chosen = chosen_for(sweep, records, spec)
    if chosen:
        row |= {"setting": _setting(chosen.spec, spec), "lr": chosen.lr, "edge": _edges(sweep, spec, chosen) or None}
    if runs:
        row |= {"test": compared["mean"], "test_ci": compared["half"]}
        row |= {"difference": compared["difference"], "difference_ci": compared["difference_half"]}
        row["validation"] = fmean(r["validation"] for r in runs)
    elif chosen and not sweep.config.seeds:
        row["validation"] = chosen.validation
    return row


def _edges(sweep: Sweep, spec: str, chosen: Chosen) -> str:
    """Which hyperparameters of the chosen point touch an end of what was searched; the command shows the rates'."""
    values = parse_spec(chosen.spec)[1]
    ranges = {name: found for name, found in sweep.space(spec).items() if isinstance(found, Range)}
    numbers = {name: value for name, value in values.items() if name in ranges and isinstance(value, int | float)}
    touched = [name for name, value in numbers.items() if ranges[name].at_edge(value)]
    return ", ".join(f"{name} in [{ranges[name].low:g}, {ranges[name].high:g}]" for name in touched)


def _detail_table(finals: dict[str, list[Record]]) -> Table:
    rows: list[Record] = []
    for spec, runs in finals.items():
        if runs:
            means = {c.key: fmean(r[c.key] for r in runs) for c in EXTRAS if all(c.key in r for r in runs)}
            rows.append({"estimator": spec, **means})
    columns = [Column("estimator", "estimator"), *(c for c in EXTRAS if any(c.key in row for row in rows))]
    return Table(columns, rows, "Means over the final runs. Times are of this sweep and not interleaved.")


def _search_table(sweep: Sweep, records: list[Record]) -> Table:
    rows: list[Record] = []
    for spec in sweep.config.estimators:
        for record in searched(records, spec):
            row: Record = {key: record.get(key) for key in ("estimator", "number", "state", "validation")}
            row |= {"setting": _setting(spec_at(spec, record["point"]), spec), "lr": sweep.lr_at(record["point"])}
            rows.append(row)
    columns = (
        Column("number", "trial"),
        Column("setting", "setting"),
        Column("lr", "learning rate", ".2e"),
        Column("validation", "validation", ".5f", lowest_is_best=True),
        Column("state", "state", stays=True),
    )
    return Table(columns, rows, "Trial 0 has the default hyperparameters.", group="estimator")


def _curves(study: Study, finals: dict[str, list[Record]]) -> list[Plot]:
    names = dict.fromkeys(name for runs in finals.values() for r in runs for name in r["curves"] if name != "step")
    note = "Final runs: mean over seeds, the band is its 95 % interval, with three or more."
    note += " Logarithmic." * study.log_y
    plots = []
    for name in names:
        curves = band_curves(
            {
                spec: [(r["curves"]["step"], [_drawn(study, value) for value in r["curves"][name]]) for r in runs]
                for spec, runs in finals.items()
            }
        )
        plots.append(Plot(CURVE_TITLES[name], study.x_label, study.y_label, curves, note, log_y=study.log_y))
    return plots


def _sensitivity(sweep: Sweep, records: list[Record]) -> list[Plot]:
    """Validation value of every finished search trial against each hyperparameter, one plot per hyperparameter."""
    spaces = {spec: sweep.space(spec) for spec in sweep.config.estimators}
    names = dict.fromkeys(name for space in spaces.values() for name in space)
    note = "One point per search trial that ran to its end. The worst fifth of all trials is cut off."
    plots = []
    for name in names:
        curves, log_x = [], False
        for spec, space in spaces.items():
            done = [r for r in searched(records, spec) if r["state"] == "complete" and name in r["point"]]
            if name in space and done:
                values = space[name]
                log_x |= isinstance(values, Range) and values.log
                y = [_drawn(sweep.study, r["validation"]) for r in done]
                curves.append(Curve(spec, [r["point"][name] for r in done], y, points=True))
        if curves:
            title = "learning rate" if name == "lr" else name
            curves = curves if sweep.study.log_y else _without_worst(curves)
            plots.append(
                Plot(
                    f"Sensitivity to {title}",
                    title,
                    f"validation {sweep.study.y_label}",
                    curves,
                    note,
                    log_x=log_x,
                    log_y=sweep.study.log_y,
                )
            )
    return plots


def _without_worst(curves: list[Curve]) -> list[Curve]:
    values = sorted(y for curve in curves for y in curve.y)
    limit = values[max(0, -(-len(values) * 4 // 5) - 1)]
    kept = []
    for curve in curves:
        pairs = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y <= limit]
        if pairs:
            kept.append(Curve(curve.label, [x for x, _ in pairs], [y for _, y in pairs], points=True))
    return kept


def _history(sweep: Sweep, records: list[Record]) -> list[Plot]:
    curves = []
    for spec in sweep.config.estimators:
        best, xs, ys = float("inf"), [], []
        for record in searched(records, spec):
            best = min(best, record["validation"] if record["state"] == "complete" else best)
            if best < float("inf"):
                xs.append(record["number"])
                ys.append(_drawn(sweep.study, best))
        if xs:
            curves.append(Curve(spec, xs, ys))
    note = "A flat end says that more trials would hardly help."
    lowest = f"lowest validation {sweep.study.y_label}"
    plot = Plot("Best so far", "number of the search trial", lowest, curves, note, log_y=sweep.study.log_y)
    return [plot] if curves else []


def _drawn(study: Study, value: float) -> float:
    """A value as the plots draw it."""
    return max(value, FLOOR) if study.log_y else value


def _facts(sweep: Sweep) -> dict[str, str]:
    config = sweep.config
    final = ", ".join(map(str, config.seeds))
    if sweep.given is not None:
        return {"settings": str(config.settings), "seeds": final}
    return {
        "search": f"Optuna, sampler {config.sampler}, pruner {config.pruner}, on validation values",
        "seeds": f"search {', '.join(map(str, config.search_seeds))}; final {final or 'none'}",
    }


def _setting(spec: str, estimator: str) -> str:
    """What the search added to an estimator: `t1=0.5,num_noises=2`."""
    return spec.removeprefix(estimator).lstrip(":,").replace(",", ", ") or "–"


def _finals(sweep: Sweep, records: list[Record], spec: str) -> list[Record]:
    return [record for record in finals_of(sweep, records, spec) if record["state"] == "complete"]


def _state(sweep: Sweep, records: list[Record], spec: str) -> str:
    mine = finals_of(sweep, records, spec)
    failed = [r for r in mine if r["state"] != "complete"]
    if failed:
        return f"{len(failed)} diverged" if chosen_for(sweep, records, spec) else "every trial diverged"
    return "done" if len(mine) == len(sweep.config.seeds) else f"{len(mine)} of {len(sweep.config.seeds)} final runs"
