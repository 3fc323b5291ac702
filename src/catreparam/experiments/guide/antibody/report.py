"""The report of `catreparam guide antibody`: table at every strength and at equal KL, curves, logos, every design."""

from collections.abc import Sequence
from statistics import fmean

import torch

from catreparam.experiments.guide.antibody.config import Config
from catreparam.experiments.guide.antibody.inputs import Antibody
from catreparam.experiments.guide.antibody.judges import missing_judges
from catreparam.experiments.guide.antibody.logo import draw_logo
from catreparam.experiments.guide.antibody.targets import UNITS
from catreparam.experiments.guide.equal_kl import NOTE, Point, rows_at_equal_kl
from catreparam.experiments.guide.methods import CANDIDATES, is_gradient_method
from catreparam.experiments.runs.configs import command_of
from catreparam.experiments.runs.folder import Record, RunFolder, finish
from catreparam.experiments.runs.statistics import agresti_coull_half
from catreparam.models.antiberty import HEADS
from catreparam.report import Column, Curve, ImageGrid, Plot, Report, Table

# Numbers that a design has besides its properties: key, title, format.
JUDGED = (
    ("prior_log_prob", "log prior", ".1f"),
    ("pll", "pseudo-log-likelihood", ".2f"),
    ("instability", "instability", ".1f"),
    ("protparam_charge", "ProtParam's charge", ".2f"),
    ("protparam_pi", "ProtParam's pI", ".2f"),
    ("protparam_gravy", "ProtParam's GRAVY", ".3f"),
    ("numbered", "numbered", ".2f"),
    ("identity", "identity", ".2f"),
)
IN_TABLE = ("prior_log_prob", "pll", "instability", "numbered", "identity")
SPECS = {"charge": ".2f", "pi": ".2f", "gravy": ".3f", "patch": ".2f", "aromaticity": ".3f", "liabilities": ".2f"}
SPECS |= dict.fromkeys(HEADS, ".3f")  # probability of the wanted class
EQUAL_KL = "At equal KL"
LOGOS = 3  # antibodies shown as logos


def report_designs(config: Config, folder: RunFolder) -> Report:
    """Builds the report from the metrics, writes it, FASTA and CSV into the folder."""
    records = folder.read_metrics()
    designs = [row for record in records for row in rows_of(record)]
    points = [point for m, s in config.points() if (point := point_of(config, m, s, designs)).values]
    missing = len(config.keys()) - len(records)
    wanted = ", ".join(map(str, config.targets()))
    report = Report(
        title=f"Designed antibodies: {wanted}",
        summary=f"{len(config.antibodies())} sequences, {len(config.methods)} methods, "
        f"{config.num_designs * len(config.seeds)} designs of each sequence, {config.num_rounds} rounds, at most "
        f"{config.budget.evaluations} evaluations a design (model, reward and gradient each count as one).",
        table=Table(_columns(config), _rows(config, points), _note(config)),
        plots=_curves(config, points),
        grids=_logos(config, designs),
        appendix={**_equal_kl_part(config, points), "Designs": Table(_design_columns(config), designs)},
        facts=_facts(config, folder),
        command=command_of("catreparam guide antibody", config),
    )
    if designs:
        folder.write("designs.fasta", "".join(f">{row['name']}\n{row['design']}\n" for row in designs))
    return finish(folder, report, unfinished=f"{missing} of {len(config.keys())} cells" if missing > 0 else "")


def rows_of(record: Record) -> list[Record]:
    """A row for each design of a cell, with all its numbers."""
    rows = []
    for index, design in enumerate(record["designs"]):
        label = f"{record['method']}|{record['strength']:g}|{record['seed']}|{index + 1}"
        rows.append(
            {
                "name": f"{record['sequence']}|{label}",
                **{key: record[key] for key in ("sequence", "method", "strength", "seed")},
                **{key: record[key][index] for key in ("reward", "prior_log_prob")},
                "kl": None if record["kl"] is None else record["kl"][index],
                **{key: values[index] for key, values in record["scores"].items()},
                **{key: record[key] for key in ("diversity", "evaluations", "seconds")},
                "model_evaluations": record["model_evaluations"],
                "design": design,
            }
        )
    return rows


def point_of(config: Config, method: str, strength: float, designs: Sequence[Record]) -> Point:
    """One point of the comparison."""
    mine = [row for row in designs if row["method"] == method and row["strength"] == strength]
    names = [antibody.name for antibody in config.antibodies() if any(row["sequence"] == antibody.name for row in mine)]
    keys = [key for key, value in (mine[0] if mine else {}).items() if not isinstance(value, str)]
    values = {
        key: [[row[key] for row in mine if row["sequence"] == name and row[key] is not None] for name in names]
        for key in keys
    }
    return Point(method, strength, values)


def _shown(config: Config) -> list[str]:
    return [target.name for target in config.targets()]


def _rows(config: Config, points: Sequence[Point]) -> list[Record]:
    rows = []
    for point in points:
        row: Record = {"method": point.method, "strength": point.strength}
        for key in ("kl", "reward", *_shown(config), *IN_TABLE):
            if (found := point.mean(key)) is not None:
                row[key], row[f"{key}_half"] = found
        row["designs"] = count = sum(map(len, point.values["reward"]))
        if "numbered" in row:  # a share: never quite sure, also where all agree
            row["numbered_half"] = agresti_coull_half(row["numbered"], count)
        for key in ("diversity", "evaluations", "model_evaluations", "seconds"):
            row[key] = fmean(known) if (known := [v for group in point.values[key] for v in group]) else None
        rows.append(row)
    return rows


def _equal_kl_part(config: Config, points: Sequence[Point]) -> dict[str, Table]:
    """The comparison at equal KL, where there is one."""
    table = _at_equal_kl(config, points)
    return {EQUAL_KL: table} if table.rows else {}


def _at_equal_kl(config: Config, points: Sequence[Point]) -> Table:
    """Every method that optimises logits, at KLs that all of them reach, best first."""
    optimised = [point for point in points if is_gradient_method(point.method)]
    rows = rows_at_equal_kl(optimised, ["reward", *_shown(config)])
    columns = [
        Column("method", "method"),
        Column("kl", "KL, nats", ".1f"),
        Column("reward", "reward", ".2f", "reward_half"),
        Column("behind", "behind the best", ".2f", "behind_half"),
    ]
    columns += [Column(name, name, SPECS[name], f"{name}_half") for name in _shown(config)]
    return Table(columns, rows, NOTE)


def _columns(config: Config) -> list[Column]:
    judged = [Column(key, title, spec, f"{key}_half") for key, title, spec in JUDGED if key in IN_TABLE]
    return [
        Column("method", "method"),
        Column("strength", "weight", "g"),
        Column("kl", "KL, nats", ".1f", "kl_half"),
        Column("reward", "reward", ".2f", "reward_half"),
        *(Column(name, name, SPECS[name], f"{name}_half") for name in _shown(config)),
        *judged,
        Column("diversity", "diversity", ".2f"),
        Column("designs", "designs"),
        Column("evaluations", "evaluations", ".0f"),
        Column("model_evaluations", "of the model", ".0f"),
        Column("seconds", "seconds", ".1f"),
    ]


def _design_columns(config: Config) -> list[Column]:
    properties = [Column(name, name, SPECS[name]) for name in dict.fromkeys([*UNITS, *_shown(config)])]
    judged = [Column(*triple) for triple in JUDGED]
    scores = [Column("reward", "reward", ".2f"), Column("kl", "KL, nats", ".1f")]
    return [Column("name", "design"), *scores, *properties, *judged, Column("design", "sequence")]


def _note(config: Config) -> str:
    terms = "; ".join(
        f"{target.weight:g} × log-probability of {target.shown}"
        if target.name in HEADS
        else f"−{target.weight:g} × (({target.name} − {target.shown}) / {UNITS[target.name][0]:g})²"
        for target in config.targets()
    )
    return (
        f"Reward: {terms}. Weight: of the KL (methods that optimise logits) or of the reward (svdd, smc). "
        "KL: of the guided from the prior's reveals, summed over the rounds; an upper bound for best_of_n and svdd, "
        "unknown for smc. ± is half a 95 % interval over the designs, for these sequences. Judges that "
        "nothing optimised: log prior, log-probability of all reveals on the way; pseudo-log-likelihood, nats a "
        "designed residue; instability, above 40 unstable (ProtParam); numbered, the share that anarcii numbers as the "
        "start's chain; identity to the start, and diversity among designs of a cell, both as shares of the designed "
        "positions. Seconds: a cell of "
        f"{config.num_designs} designs, without the judges."
    )


def _curves(config: Config, points: Sequence[Point]) -> list[Plot]:
    """Reward and targeted properties against the KL, a curve a method."""
    plots = []
    for key in ("reward", *_shown(config)):
        curves = []
        for method in config.methods:
            mine = [
                (p.kl, *found) for p in points if p.method == method and p.kl is not None and (found := p.mean(key))
            ]
            mine.sort(key=lambda triple: triple[0])
            if mine and method != "unguided":
                xs, ys, halves = (list(column) for column in zip(*mine, strict=True))
                bars = [] if None in halves else halves
                curves.append(Curve(method, xs, ys, bars, points=len(mine) == 1))  # type: ignore[arg-type]
        if curves:
            y_label = UNITS[key][1] if key in UNITS else key
            plots.append(Plot(f"{key.capitalize()} against KL", "KL to the prior, nats", y_label, curves))
    return plots


def _logos(config: Config, designs: Sequence[Record]) -> list[ImageGrid]:
    """For the first antibodies: the start, then every method that was asked for, at the middle of its weights."""
    grids = []
    for antibody in config.antibodies()[:LOGOS]:
        shown = [("before", [antibody.sequence])] if antibody.is_known else []
        for method in config.methods:
            own = [strength for name, strength in config.points() if name == method]
            middle = own[len(own) // 2]
            rows = [row["design"] for row in designs if _is_of(row, antibody, method, middle)]
            shown += [(f"{method}, weight {middle:g}" if is_gradient_method(method) else method, rows)] if rows else []
        if shown:
            pictures = [draw_logo(title, sequences, antibody.positions) for title, sequences in shown]
            note = (
                "Height: information in bits. Blue basic, red acidic, green polar, grey hydrophobic, pink G, P and C."
            )
            grids.append(ImageGrid(f"{antibody.name}: designed positions", torch.stack(pictures).unsqueeze(1), note))
    return grids


def _is_of(row: Record, antibody: Antibody, method: str, strength: float) -> bool:
    return (row["sequence"], row["method"], row["strength"]) == (antibody.name, method, strength)


def _facts(config: Config, folder: RunFolder) -> dict[str, str]:
    budget, absent = config.budget, missing_judges()
    counts = ", ".join(f"{name} {budget.candidates(name)}" for name in config.rivals if name in CANDIDATES)
    spent = f"{budget.evaluations} evaluations: {config.num_rounds} rounds of {config.num_steps} steps of Adam, "
    return {
        "prior": "AntiBERTy (antiberty 0.1.3, MIT): 26 million parameters, trained on 558 million natural antibodies"
        if config.model is None
        else f"weights of {config.model}",
        "precision of the model": config.precision,
        "sequences": ", ".join(f"{a.name} ({len(a.positions)} of {len(a.sequence)})" for a in config.antibodies()),
        "budget": spent + f"learning rate {config.lr:g}" + (f"; candidates: {counts}" if counts else ""),
        "judges that are not installed": ", ".join(absent) or "none",
        "seeds": ", ".join(map(str, config.seeds)),
        "machine": folder.machine,
    }
