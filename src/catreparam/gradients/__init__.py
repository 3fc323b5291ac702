"""Measuring gradient estimators: exact gradients; bias, variance, law and cost; choosing hyperparameters."""

from catreparam.gradients.measure import GradientStats, measure
from catreparam.gradients.reference import Reference, exact_gradient, reference_gradient, seconds_per_draw
from catreparam.gradients.tune import SEARCH_SPACE, TuneResult, TuneRow, count_evaluations, tune
from catreparam.gradients.tune_training import TrainedRow, TrainingResult, tune_training

__all__ = [
    "SEARCH_SPACE",
    "GradientStats",
    "Reference",
    "TrainedRow",
    "TrainingResult",
    "TuneResult",
    "TuneRow",
    "count_evaluations",
    "exact_gradient",
    "measure",
    "reference_gradient",
    "seconds_per_draw",
    "tune",
    "tune_training",
]
