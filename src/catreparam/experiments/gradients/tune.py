"""Choose an estimator and its hyperparameters for one objective: the measured trade-offs and the best setting.

Criterion bias: error of one step at equal evaluations of the objective, squared bias counted --bias-weight times;
training: the exact expected loss after a short training; mse: the plain error of one step, a poor proxy for training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from catreparam.estimators import Estimator
from catreparam.experiments.gradients.measure import Point, draw_logits, trade_off
from catreparam.experiments.gradients.objective_specs import build_objective, load_logits
from catreparam.experiments.runs.configs import check_seeds, command_of
from catreparam.experiments.runs.estimator_specs import entries_to_tune
from catreparam.experiments.runs.folder import Record, write_into
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.progress import show_progress
from catreparam.gradients import TuneResult, TuneRow, tune
from catreparam.gradients.tune import candidates
from catreparam.report import Column, Report, Table
from catreparam.validation import check_count

COLUMNS = (
    Column("estimator", "setting"),
    Column("score", "score", ".4f", "score_stderr", lowest_is_best=True),
    Column("level", "level with the best"),
    Column("squared_bias", "bias²", ".4f", "squared_bias_stderr"),
    Column("variance", "variance", ".3f", "variance_stderr"),
    Column("evaluations", "evaluations"),
    Column("mse_per_evaluation", "MSE at equal evaluations", ".3f"),
    Column("mse_per_second", "MSE at equal time", ".3f"),
    Column("pareto", "Pareto"),
    Column("final_loss", "loss after training", ".5f", "final_loss_stderr"),
)
NOTE = (
    "Relative to the squared norm of the exact gradient; ± is one standard error. Score: the criterion, lower is "
    "better. Level with the best: within three standard errors of the difference, so that another seed may order them "
    "otherwise. Pareto: no other setting has both less bias and less variance at equal evaluations."
)

MEASURED = (
    "score",
    "score_stderr",
    "evaluations",
    "mse_per_evaluation",
    "mse_per_second",
    "pareto",
    "final_loss",
    "final_loss_stderr",
)


@dataclass(frozen=True)
class Config:
    """What to choose from, and by what."""

    objective: str = "mlp"
    """Built-in (quadratic | power | mlp | table | misleading) or your own as module:function."""
    estimators: tuple[str, ...] = ()
    """Names are expanded over their search space; a name with hyperparameters (redge:t1=0.5) is tried as it is.
    None given: all with a search space and, from two samples on, reinmax_rloo and rloo."""
    logits: str | None = None
    """Where to tune: a .npy, .safetensors or .pt file, or module:function; else normal logits of the sizes below."""
    criterion: str = "bias"
    """bias | training | mse, see above."""
    bias_weight: float = 10.0
    """How often squared bias counts in the criterion bias."""
    num_variables: int = 3
    """Variables of a loss; with --logits what these have."""
    num_classes: int = 4
    """Classes of a variable; with --logits what these have."""
    logit_scale: float = 1.0
    """Standard deviation of the normal logits."""
    num_draws: int = 2_000
    """Gradients that are drawn with each setting."""
    num_samples: int = 1
    """Samples inside one draw of the gradient; a method that needs more gets as many as it needs."""
    training_steps: int = 100
    """Steps of Adam in the criterion training."""
    lr: float = 0.1
    """Of these steps."""
    seed: int = 0
    """Of the logits, the draws and a built-in objective."""
    folder: Path | None = None
    """Where to write table.md, table.csv, table.jsonl and report.html; nothing is written if it is not given."""


def run(config: Config) -> Report:
    """Measures every setting and orders them. Raises ValueError or TypeError for a bad config."""
    check_seeds("seed", [config.seed])
    check_count("num_samples", config.num_samples)
    entries = entries_to_tune(config.estimators or candidates(config.num_samples))
    logits = draw_logits(config.num_variables, config.num_classes, config.logit_scale, config.seed)
    if config.logits is not None:
        logits = load_logits(config.logits)
    num_variables, num_classes = logits.shape[-2:]
    objective = build_objective(
        config.objective, num_variables=num_variables, num_classes=num_classes, seed=config.seed
    )
    with show_progress() as progress:

        def follow(settings: Sequence[Estimator]) -> Iterator[Estimator]:
            progress.start("tune", total=len(settings))
            for setting in settings:
                yield setting
                progress.advance("tune", setting.name)

        result = tune(
            objective,
            logits,
            estimators=entries,
            criterion=config.criterion,
            bias_weight=config.bias_weight,
            num_draws=config.num_draws,
            num_samples=config.num_samples,
            training_steps=config.training_steps,
            learning_rate=config.lr,
            generator=torch.Generator().manual_seed(config.seed),
            progress=follow,
        )
    return write_into(config.folder, _report(config, result))


def _report(config: Config, result: TuneResult) -> Report:
    level = {row.order for row in result.level}
    rows: list[Record] = [
        {
            **asdict(row.stats),
            "estimator": row.show(),
            **{name: getattr(row, name) for name in MEASURED},
        }
        | {"pareto": "yes" if row.pareto else "", "level": "yes" if row.order in level else ""}
        for row in result.rows
    ]
    columns = COLUMNS if config.criterion == "training" else COLUMNS[:-1]
    front = sorted((_point(result, row) for row in result.rows), key=lambda point: point.variance)
    front = [point for point in front if point.chosen or point.name in {r["estimator"] for r in rows if r["pareto"]}]
    return Report(
        title=f"Tuning for {config.objective}",
        summary=f"Recommended by {config.criterion}: {result.code}\n{len(level)} of {len(rows)} settings cannot be "
        f"told from the best by their errors{result.doubt}; of these it is the cheapest. Lowest score: "
        f"{result.rows[0].show()}.",
        table=Table(columns, rows, NOTE),
        plots=[trade_off("Pareto front", "variance at equal evaluations", front, " Star: the recommendation.")],
        facts={"machine": describe_machine(), "seed": str(config.seed)},
        command=command_of("catreparam tune", config),
    )


def _point(result: TuneResult, row: TuneRow) -> Point:
    stats, count = row.stats, row.evaluations
    errors = (stats.variance_stderr * count, stats.squared_bias_stderr)
    return Point(row.show(), stats.variance * count, stats.squared_bias, *errors, row.estimator == result.recommended)
