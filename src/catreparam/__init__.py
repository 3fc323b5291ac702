"""catreparam: gradients through categorical variables, ReDGE and its rivals, for PyTorch."""

from catreparam import startup  # noqa: F401 (before torch)

# isort: split
from catreparam import estimators
from catreparam.categorical import attach_gradient, draw_one_hot, entropy, kl, kl_to_uniform
from catreparam.estimators import *  # noqa: F403
from catreparam.gradients import GradientStats, exact_gradient, measure, tune, tune_training
from catreparam.noise_schedule import NoiseSchedule, alpha_grid, lambda_grid, make_schedule, quadratic_grid
from catreparam.pending import check_pending, set_validation

__version__ = "0.1.0"

__all__ = [
    "GradientStats",
    "NoiseSchedule",
    "alpha_grid",
    "attach_gradient",
    "check_pending",
    "draw_one_hot",
    "entropy",
    "exact_gradient",
    "kl",
    "kl_to_uniform",
    "lambda_grid",
    "make_schedule",
    "measure",
    "quadratic_grid",
    "set_validation",
    "tune",
    "tune_training",
]
__all__ += estimators.__all__  # pyright: ignore[reportAttributeAccessIssue, reportUnsupportedDunderAll]
