"""Choosing an estimator and its hyperparameters for one objective: measured trade-offs, Pareto front, best setting."""

import itertools
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
from catreparam.estimators.registry import Estimator, fewest_samples, make_estimator
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


@dataclass(frozen=True)
class TuneResult:
    """All rows, best score first, and the best setting, ready to use.

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


def tune(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    estimators: Iterable[str | Estimator] = tuple(SEARCH_SPACE),
    search_space: Mapping[str, Mapping[str, Sequence[object]]] = SEARCH_SPACE,
    criterion: str = "mse",
    bias_weight: float = 10.0,
    num_draws: int = 2_000,
    training_steps: int = 100,
    learning_rate: float = 0.1,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
    progress: Callable[[Sequence[Estimator]], Iterable[Estimator]] = lambda settings: settings,
) -> TuneResult:
    """Measures every setting and orders them by a criterion.

    criterion: `mse`, the error at equal objective evaluations; `bias`, squared bias weighted by `bias_weight`;
    `training`, the exact expected loss after `training_steps` of Adam from `logits`, averaged over 16 runs. Per-step
    MSE is a poor proxy for training: variance averages out over steps and bias does not, so prefer the other two when
    you train. A name is expanded over `search_space`; a made estimator is tried as it is. `progress` may wrap the list
    of settings.

    Bias is measured against the exact gradient where it can be enumerated, else against a long RLOO mean.
    Raises ValueError for unknown names or criteria, or (training) if the loss cannot be enumerated.

    >>> result = tune(lambda x: x[..., 0], torch.zeros(3), estimators=["straight_through", "rloo"], num_draws=50,
    ...               generator=torch.Generator().manual_seed(0))
    >>> result.best
    make_estimator('straight_through')
    """
    check_choice("criterion", criterion, CRITERIA)
    check_number("bias_weight", bias_weight, least=0.0)
    check_count("training_steps", training_steps)
    settings = [setting for entry in estimators for setting in expand(entry, search_space)]
    if not settings:
        raise ValueError("estimators must name at least one estimator, got none")
    counts = [fewest_samples(setting) for setting in settings]
    reference = reference_gradient(objective, logits, mask=mask, generator=generator)
    drawn: dict[str, Any] = {"num_draws": num_draws, "reference": reference, "mask": mask, "generator": generator}
    measured: list[tuple[GradientStats, int, tuple[float, float] | None]] = []
    for setting, count in zip(progress(settings), counts, strict=True):
        evaluations = count_evaluations(objective, logits, setting, count, mask)
        stats = measure(objective, logits, estimator=setting, num_samples=count, **drawn)
        trained = None
        if criterion == "training":
            loss = partial(expectation, objective, estimator=setting, num_samples=count, mask=mask, generator=generator)
            trained = _short_training(loss, logits, training_steps, learning_rate)
        measured.append((stats, evaluations, trained))
    seconds = seconds_per_draw(objective, logits, settings, num_samples=counts, num_draws=200, rounds=3, mask=mask)
    fastest = min(seconds)
    points = [(stats.squared_bias, stats.variance * evaluations) for stats, evaluations, _ in measured]
    rows = []
    for setting, (stats, evaluations, trained), (bias, spread), time in zip(
        settings, measured, points, seconds, strict=True
    ):
        final = (None, None) if trained is None else trained
        scores = {"mse": bias + spread, "bias": bias_weight * bias + spread, "training": final[0] or 0.0}
        dominated = any(b <= bias and s <= spread and (b, s) != (bias, spread) for b, s in points)
        by_second = bias + stats.variance * time / fastest
        rows.append(
            TuneRow(setting, stats, evaluations, bias + spread, by_second, not dominated, scores[criterion], *final)
        )
    return TuneResult(tuple(sorted(rows, key=lambda row: row.score)), criterion)


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
