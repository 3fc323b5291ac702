"""The core estimators for JAX: pure functions of (logits, *, key, …), under jit, vmap and grad."""

from catreparam.extras import install as _install

try:
    import jax  # noqa: F401
except ImportError as error:
    raise ImportError(f"catreparam.jax needs JAX; {_install('jax')}") from error

from catreparam.jax.categorical import attach_gradient, draw_one_hot
from catreparam.jax.diffusion import (
    exact_redge,
    exact_redge_surrogate,
    redge,
    redge_cov,
    redge_cov_surrogate,
    redge_surrogate,
    reindge,
    reindge_surrogate,
)
from catreparam.jax.direct import (
    gumbel_rao,
    gumbel_rao_surrogate,
    gumbel_softmax,
    gumbel_softmax_surrogate,
    lambda_reinmax,
    lambda_reinmax_surrogate,
    reinmax,
    reinmax_surrogate,
    straight_through,
    straight_through_surrogate,
)
from catreparam.jax.hyperparameters import make_schedule
from catreparam.noise_schedule import NoiseSchedule, alpha_grid, lambda_grid, quadratic_grid

__all__ = [
    "NoiseSchedule",
    "alpha_grid",
    "attach_gradient",
    "draw_one_hot",
    "exact_redge",
    "exact_redge_surrogate",
    "gumbel_rao",
    "gumbel_rao_surrogate",
    "gumbel_softmax",
    "gumbel_softmax_surrogate",
    "lambda_grid",
    "lambda_reinmax",
    "lambda_reinmax_surrogate",
    "make_schedule",
    "quadratic_grid",
    "redge",
    "redge_cov",
    "redge_cov_surrogate",
    "redge_surrogate",
    "reindge",
    "reindge_surrogate",
    "reinmax",
    "reinmax_surrogate",
    "straight_through",
    "straight_through_surrogate",
]
