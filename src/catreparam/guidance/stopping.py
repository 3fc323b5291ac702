"""When an optimisation ends early, and estimators that change on the way."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from catreparam.validation import check_count, check_flag, check_number


@dataclass(frozen=True)
class EarlyStop:
    """Ends a loop when every sequence once reached `target`, or after `patience` steps without a better mean objective.

    Parameters:
        target: a reward; reached when every sequence of the batch has had a reward of at least that in some step.
        patience: steps without an improvement of the batch's mean of reward - kl_weight * KL.
        min_improvement: what counts as one: a gain of more than this.
    """

    target: float | None = None
    patience: int | None = None
    min_improvement: float = 0.0

    def __post_init__(self) -> None:
        if self.target is None and self.patience is None:
            raise ValueError("EarlyStop needs a target or a patience")
        if self.target is not None:
            check_number("target", self.target)
        if self.patience is not None:
            check_count("patience", self.patience)
        check_number("min_improvement", self.min_improvement, least=0.0)


def asks_to_stop(answer: Any) -> bool:
    """What a callback's answer means: None goes on, a bool, torch's and NumPy's too, says it. TypeError otherwise."""
    if answer is None:
        return False
    if isinstance(answer, Tensor) and answer.numel() == 1:
        answer = answer.item()
    return check_flag("what a callback returns", answer)


class Annealed:
    """An estimator that changes over the steps.

    Parameters:
        make: progress in [0, 1) -> the estimator, or its name, for that step.

    >>> from catreparam import make_estimator
    >>> Annealed(lambda progress: make_estimator("redge", t1=0.9 - 0.4 * progress)).at(0.5)
    make_estimator('redge', t1=0.7)
    """

    def __init__(self, make: Callable[[float], str | Callable[..., Tensor]]) -> None:
        if not callable(make):
            raise TypeError(f"Annealed wraps a function progress -> estimator, got {make!r}")
        self.make = make

    def at(self, progress: float) -> str | Callable[..., Tensor]:
        """The estimator at this progress."""
        return self.make(progress)


class Stopper:
    """The state behind an EarlyStop."""

    def __init__(self, rule: EarlyStop) -> None:
        self.rule = rule
        self.reached: Tensor | bool = False
        self.best, self.waited = -math.inf, 0

    def update(self, reward: Tensor, penalty: Tensor) -> bool:
        """Takes in one step's rewards and penalties [B]; whether to stop."""
        rule = self.rule
        if rule.target is not None:
            self.reached = (reward >= rule.target) | self.reached
            if bool(self.reached.all()):
                return True
        if rule.patience is None:
            return False
        objective = float((reward - penalty).mean())
        if objective > self.best + rule.min_improvement:
            self.best, self.waited = objective, 0
        else:
            self.waited += 1
        return self.waited >= rule.patience
