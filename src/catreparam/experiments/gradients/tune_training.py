"""Choose an estimator and its hyperparameters by training with them: short runs of your own, the better go on.

--train names a generator function: train(estimator) trains and yields the validation loss as it goes, after every
epoch say, with the same seed for everyone. All settings begin, the better third goes on three times as long, and so on.
Run it without --estimators to find the method, then with its name alone to find the hyperparameters.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from catreparam.estimators import Estimator
from catreparam.experiments.gradients.objective_specs import find_function
from catreparam.experiments.runs.configs import command_of
from catreparam.experiments.runs.estimator_specs import entries_to_tune
from catreparam.experiments.runs.folder import Record, check_writable, write_into
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.progress import show_progress
from catreparam.gradients import TrainingResult, tune_training
from catreparam.gradients.tune_training import RaceInterrupted
from catreparam.report import Column, Curve, Plot, Report, Table

COLUMNS = (
    Column("estimator", "setting"),
    Column("value", "last value", ".6g"),
    Column("count", "values"),
    Column("seconds", "seconds", ".1f"),
    Column("note", "note"),
)
NOTE = (
    "Values: what the training yielded, lower is better. Best first: settings that went further stand above those that "
    "were stopped. One run each, so near values may change places with another seed."
)


@dataclass(frozen=True)
class Config:
    """What to train, what to choose from, and for how long."""

    train: str = ""
    """Your generator function as module:function. It takes an estimator and yields losses, lower is better."""
    estimators: tuple[str, ...] = ()
    """Names are expanded over their search space; a name with hyperparameters (redge:t1=0.5) is tried as it is.
    None given: all of them with their defaults and, from two samples on, reinmax_rloo and rloo."""
    lr: tuple[float, ...] = ()
    """Learning rates to try everyone at: your function is called with learning_rate= then. None given: its own."""
    num_samples: int = 1
    """Samples a step in your training: decides whether methods that need several are tried."""
    first: int = 1
    """Values of every setting before the first of them are dropped."""
    reduction: int = 3
    """One setting of so many goes on, for so many times as long."""
    max_seconds: float = 300.0
    """After so long what is known decides."""
    folder: Path | None = None
    """Where to write table.md, table.csv, table.jsonl and report.html; nothing is written if it is not given."""


def run(config: Config) -> Report:
    """Trains with every setting and orders them.

    Raises ValueError or TypeError for a bad config or training, and OSError if the report cannot be written.
    """
    if not config.train:
        raise ValueError("--train is missing: give your generator function as module:function; see --help")
    train = find_function("train", config.train)
    entries = entries_to_tune(config.estimators) if config.estimators else None
    check_writable(config.folder)
    with show_progress() as progress:

        def follow(length: int, settings: Iterable[Estimator]) -> Iterator[Estimator]:
            settings = list(settings)
            name = f"to {length} value" + "s" * (length > 1)
            progress.start(name, total=len(settings))
            for setting in settings:
                yield setting
                progress.advance(name, setting.name)

        try:
            result = tune_training(
                train,
                estimators=entries,
                learning_rates=config.lr,
                num_samples=config.num_samples,
                first=config.first,
                reduction=config.reduction,
                max_seconds=config.max_seconds,
                progress=follow,
            )
        except RaceInterrupted as error:
            error.report = write_into(config.folder, _report(config, error.result))
            raise
    return write_into(config.folder, _report(config, result))


def _report(config: Config, result: TrainingResult) -> Report:
    rows: list[Record] = []
    for place, row in enumerate(result.rows):
        note = "at the end" if place < result.finalists else "diverged" if row.diverged else ""
        value = row.values[-1] if row.values and not row.diverged else None
        rows.append({"estimator": row.show(), "value": value, "count": len(row.values), "seconds": row.seconds})
        rows[-1]["note"] = note if row.values else "not tried"
    curves = [
        Curve(row.show(), range(1, len(row.values) + 1), row.values) for row in result.rows if len(row.values) > 1
    ]
    return Report(
        title=f"Tuning by training: {config.train}",
        summary=f"Recommended: {result.rows[0].show()}\nOf {result.describe()}.",
        table=Table(COLUMNS, rows, NOTE),
        plots=[Plot("Losses", "values", "what the training yielded", curves[:12])] if curves else [],
        facts={"machine": describe_machine()},
        command=command_of("catreparam tune training", config),
    )
