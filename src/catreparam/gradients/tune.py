"""Choosing an estimator and its hyperparameters for one objective: measured trade-offs, Pareto front, best setting."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.estimators.expectation import expectation
from catreparam.estimators.facts import ESTIMATORS, facts_of
from catreparam.estimators.joint import Objective
from catreparam.estimators.registry import Estimator, fewest_samples, make_estimator, takes_objective
from catreparam.gradients.measure import GradientStats, measure
from catreparam.gradients.reference import reference_gradient, seconds_per_draw
from catreparam.validation import check_choice, check_count, check_number

SEARCH_SPACE: dict[str, dict[str, Sequence[object]]] = {
    name: {key: values.grid for key, values in facts.search.items() if values.grid}
    for name, facts in ((name, facts_of(name)) for name in ESTIMATORS)
    if facts.tuned
}
"""Values that `tune` tries, by estimator and hyperparameter; what is not here stays at its default."""
CRITERIA = ("mse", "bias", "training")
APART = 3.0  # standard errors of the difference from which scores can be told apart, among some dozens of settings
Measured = tuple[GradientStats, int, tuple[float, float] | None]  # evaluations; loss after training with its error
SHOWN = 12  # rows of print(result)


@dataclass(frozen=True)
class TuneRow:
    """One setting that `tune` tried, and how it did.

    Fields:
        estimator: the setting, ready to use.
        stats: bias, variance and error of one draw, see `GradientStats`.
        evaluations: calls of the objective that a draw makes.
        mse_per_evaluation: squared_bias + variance * evaluations: the error when every method gets as many evaluations.
        mse_per_second: the same with wall time in place of evaluations, relative to the fastest setting.
        pareto: whether no other setting has both less bias and less variance at equal evaluations.
        score: what the rows are ordered by; lower is better.
        final_loss: the exact expected loss after a short training; None unless criterion is "training".
        final_loss_stderr: standard error of final_loss.
        score_stderr: standard error of the score.
        order: its place among the settings that were tried.
    """

    estimator: Estimator
    stats: GradientStats
    evaluations: int
    mse_per_evaluation: float
    mse_per_second: float
    pareto: bool
    score: float
    final_loss: float | None = None
    final_loss_stderr: float | None = None
    score_stderr: float = 0.0
    order: int = 0

    def show(self) -> str:
        """name:key=value,… as the command line takes it."""
        return show_setting(self.estimator)


@dataclass(frozen=True)
class TuneResult:
    """All rows, best score first, what cannot be told from the best, and a recommendation. `print` shows them.

    Fields:
        rows: one for every setting, best score first.
        criterion: what they were ordered by.
    """

    rows: tuple[TuneRow, ...]
    criterion: str

    @property
    def best(self) -> Estimator:
        """The estimator with the lowest score."""
        return self.rows[0].estimator

    @property
    def level(self) -> tuple[TuneRow, ...]:
        """The best row, and those whose score lies within three standard errors of the difference from it."""
        first = self.rows[0]
        spread = {row.order: math.hypot(row.score_stderr, first.score_stderr) for row in self.rows}
        near = (row for row in self.rows[1:] if row.score - first.score <= APART * spread[row.order])
        return (first, *near)

    @property
    def recommended(self) -> Estimator:
        """Of those on a level with the best, the one with the fewest evaluations; of several the first tried."""
        return self._recommended.estimator

    @property
    def _recommended(self) -> TuneRow:
        return min(self.level, key=lambda row: (row.evaluations, row.order))

    @property
    def code(self) -> str:
        """The call of the recommended setting, with the number of samples that it was tried at, to be pasted."""
        estimator = self.recommended
        given = "".join(f", {key}={value!r}" for key, value in estimator.keywords.items())
        count = max(self._recommended.stats.num_samples, fewest_samples(estimator))
        if takes_objective(estimator) or count > 1:
            made = f"make_estimator({estimator.name!r}{given})"
            return f"expectation(objective, logits, estimator={made}, num_samples={count})"
        return f"{estimator.name}(logits{given})"

    @property
    def doubt(self) -> str:
        """What to do where most settings cannot be told apart; "" where they can."""
        few = 2 * len(self.level) <= len(self.rows) or len(self.rows) < 3
        return "" if few else ": too few to choose by; give more draws, or more rows of logits"

    def __str__(self) -> str:
        level = {row.order for row in self.level}
        shown = self.rows[: max(SHOWN, len(level))]
        width = max(len(row.show()) for row in shown)
        lines = [
            f"{len(self.rows)} settings by {self.criterion}; {len(level)} (*) cannot be told from the best{self.doubt}",
            f"Recommended, the cheapest of these: {self.code}",
            f"  {'setting':<{width}}  {'score':>19}  {'bias²':>8}  {'variance':>8}  evaluations",
        ]
        for row in shown:
            score = f"{row.score:.4f} ± {row.score_stderr:.4f}"
            numbers = f"{score:>19}  {row.stats.squared_bias:>8.4f}  {row.stats.variance:>8.3f}  {row.evaluations:>11}"
            lines.append(f"{'*' if row.order in level else ' '} {row.show():<{width}}  {numbers}")
        hidden = len(self.rows) - len(shown)
        return "\n".join([*lines, *[f"  and {hidden} more, in `rows`"][: bool(hidden)]])


def tune(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    estimators: Iterable[str | Estimator] | None = None,
    search_space: Mapping[str, Mapping[str, Sequence[object]]] = SEARCH_SPACE,
    criterion: str = "bias",
    bias_weight: float = 10.0,
    num_draws: int = 2_000,
    num_samples: int = 1,
    training_steps: int = 100,
    learning_rate: float = 0.1,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
    progress: Callable[[Sequence[Estimator]], Iterable[Estimator]] = lambda settings: settings,
) -> TuneResult:
    """Measures every setting and orders them by a criterion.

    criterion: `bias`, the error with squared bias weighted by `bias_weight`, since variance averages out over training
    steps and bias does not; `training`, the exact expected loss after `training_steps` of Adam from `logits`, averaged
    over 16 runs; `mse`, the error of one step at equal objective evaluations, a poor proxy for training. A name is
    expanded over `search_space`; a made estimator is tried as it is. `progress` may wrap the list of settings.

    `num_samples`: samples inside one draw of every setting, at least as many as it takes. None for `estimators` tries
    those of SEARCH_SPACE and, from two samples on, those that need several: reinmax_rloo and rloo.

    Bias is measured against the exact gradient where it can be enumerated, else against a long RLOO mean.
    Raises ValueError for unknown names or criteria, or (training) if the loss cannot be enumerated.

    >>> result = tune(lambda x: x[..., 0], torch.zeros(3), estimators=["straight_through", "rloo"], num_draws=50,
    ...               generator=torch.Generator().manual_seed(0))
    >>> result.recommended, result.code
    (make_estimator('straight_through'), 'straight_through(logits)')
    """
    check_choice("criterion", criterion, CRITERIA)
    check_number("bias_weight", bias_weight, least=0.0)
    check_count("training_steps", training_steps)
    check_number("learning_rate", learning_rate, above=0.0)
    check_count("num_draws", num_draws, minimum=2)
    check_count("num_samples", num_samples)
    estimators = candidates(num_samples) if estimators is None else estimators
    settings = [setting for entry in estimators for setting in expand(entry, search_space)]
    if not settings:
        raise ValueError("estimators must name at least one estimator, got none")
    counts = [max(num_samples, fewest_samples(setting)) for setting in settings]
    reference = reference_gradient(objective, logits, mask=mask, generator=generator)
    drawn: dict[str, Any] = {"num_draws": num_draws, "reference": reference, "mask": mask, "generator": generator}
    measured: list[Measured] = []
    for setting, count in zip(progress(settings), counts, strict=True):
        evaluations = count_evaluations(objective, logits, setting, count, mask)
        stats = measure(objective, logits, estimator=setting, num_samples=count, **drawn)
        trained = None
        if criterion == "training":
            loss = partial(expectation, objective, estimator=setting, num_samples=count, mask=mask, generator=generator)
            trained = _short_training(loss, logits, training_steps, learning_rate)
        measured.append((stats, evaluations, trained))
    seconds = seconds_per_draw(objective, logits, settings, num_samples=counts, num_draws=200, rounds=3, mask=mask)
    rows = _rows(settings, measured, seconds, lambda *found: _score(criterion, bias_weight, *found))
    return TuneResult(tuple(sorted(rows, key=lambda row: row.score)), criterion)


def _rows(
    settings: Sequence[Estimator],
    measured: Sequence[Measured],
    seconds: Sequence[float],
    score_of: Callable[[GradientStats, int, tuple[float, float] | None], tuple[float, float]],
) -> list[TuneRow]:
    fastest = min(seconds)
    points = [(stats.squared_bias, stats.variance * evaluations) for stats, evaluations, _ in measured]
    rows = []
    for order, (setting, (stats, evaluations, trained), time) in enumerate(
        zip(settings, measured, seconds, strict=True)
    ):
        bias, spread = points[order]
        dominated = any(b <= bias and s <= spread and (b, s) != (bias, spread) for b, s in points)
        score, error = score_of(stats, evaluations, trained)
        row = TuneRow(
            estimator=setting,
            stats=stats,
            evaluations=evaluations,
            mse_per_evaluation=bias + spread,
            mse_per_second=bias + stats.variance * time / fastest,
            pareto=not dominated,
            score=score,
            final_loss=None if trained is None else trained[0],
            final_loss_stderr=None if trained is None else trained[1],
            score_stderr=error,
            order=order,
        )
        rows.append(row)
    return rows


def _score(
    criterion: str, bias_weight: float, stats: GradientStats, evaluations: int, trained: tuple[float, float] | None
) -> tuple[float, float]:
    """A criterion's value of a setting, and its standard error."""
    if trained is not None:
        return trained
    weight = bias_weight if criterion == "bias" else 1.0
    error = math.hypot(weight * stats.squared_bias_stderr, evaluations * stats.variance_stderr)
    return weight * stats.squared_bias + evaluations * stats.variance, error


def candidates(num_samples: int = 1) -> tuple[str, ...]:
    """What `tune` tries unasked, by name: SEARCH_SPACE, and what needs several samples if so many are asked for."""
    joint = (name for name in ESTIMATORS if 1 < fewest_samples(name) <= num_samples)
    return tuple(dict.fromkeys([*SEARCH_SPACE, *joint]))


def show_setting(estimator: Estimator) -> str:
    """name:key=value,… as the command line takes it."""
    given = ",".join(f"{key}={value}" for key, value in estimator.keywords.items())
    return estimator.name + ":" * bool(given) + given


def expand(entry: str | Estimator, search_space: Mapping[str, Mapping[str, Sequence[object]]]) -> list[Estimator]:
    """The settings of one entry: the product of its search space, or the entry itself."""
    if isinstance(entry, Estimator):
        return [entry]
    space = search_space.get(entry, {})
    return [
        make_estimator(entry, **dict(zip(space, values, strict=True))) for values in itertools.product(*space.values())
    ]


def count_evaluations(
    objective: Objective, logits: Tensor, estimator: Estimator, num_samples: int = 1, mask: Tensor | None = None
) -> int:
    """How often one draw calls the objective, counted on a run of it."""
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return objective(x)

    generator = torch.Generator(device=logits.device).manual_seed(0)
    expectation(counted, logits.detach(), estimator=estimator, num_samples=num_samples, mask=mask, generator=generator)
    return calls


def _short_training(
    loss: Callable[..., Tensor], logits: Tensor, steps: int, learning_rate: float
) -> tuple[float, float]:
    """Mean and standard error over 16 runs of the exact expected loss after `steps` of Adam."""
    runs = 16
    leaf = logits.detach().expand(runs, *logits.shape).clone().requires_grad_()
    optimizer = torch.optim.Adam([leaf], lr=learning_rate)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            loss(leaf).sum().backward()
            optimizer.step()
    with torch.no_grad():
        final = loss(leaf, estimator="exact").reshape(runs, -1).sum(1)
    return float(final.mean()), float(final.std()) / runs**0.5
