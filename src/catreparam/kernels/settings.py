"""What a call of an estimator does, apart from its tensors: checked once, then looked up."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from catreparam.noise_schedule import make_schedule
from catreparam.validation import check_choice, check_count, check_flag, check_number

SOLVERS = {"euler": 0, "ab2": 1, "heun": 2}


class Setting(NamedTuple):
    """A method and its hyperparameters. Values are not checked."""

    method: str
    lambdas: tuple[float, ...] = (0.0,)
    solver: str = "euler"
    hard: bool = True
    num_noises: int = 1
    temperature: float = 1.0
    weight: float = 0.0


def _remembered(make: Callable[..., Setting]) -> Callable[..., Setting]:
    """`make`, called once for the same arguments of the same types: checking them costs as much as a small sample."""
    # Typed: True == 1, which may be allowed where True is not.
    known = functools.lru_cache(maxsize=1024, typed=True)(make)

    @functools.wraps(make)
    def look_up(*arguments: Any) -> Setting:
        if torch.compiler.is_compiling():
            return make(*arguments)
        try:
            return known(*arguments)
        except TypeError:  # for arguments that have no hash too; they are no good, and `make` says so better
            return make(*arguments)

    return look_up


STRAIGHT_THROUGH = Setting("straight_through")


@_remembered
def gumbel_setting(temperature: float, hard: bool) -> Setting:
    """Of gumbel_softmax, whose arguments it has checked."""
    return Setting("gumbel_softmax", temperature=temperature, hard=hard)


@_remembered
def reinmax_setting(temperature: float) -> Setting:
    """Of reinmax. Raises what `check_number` raises."""
    return Setting("reinmax", temperature=check_number("temperature", temperature, above=0.0))


@_remembered
def lambda_reinmax_setting(weight: float) -> Setting:
    """Of lambda_reinmax. Raises what `check_number` raises."""
    return Setting("lambda_reinmax", weight=check_number("weight", weight, least=0.0, most=2.0))


@_remembered
def chain_setting(method: str, num_steps: int, t1: float, grid: str, solver: str, hard: bool) -> Setting:
    """Of redge, redge_cov and reindge. Raises TypeError or ValueError for arguments out of range and misspelt names."""
    check_flag("hard", hard)
    lambdas = make_schedule(grid, num_steps, t1).lambdas
    weight = 1.0 if method == "reindge" else 0.0
    return Setting(method, lambdas, check_choice("solver", solver, SOLVERS), hard, weight=weight)


@_remembered
def exact_setting(num_steps: int, t1: float, grid: str, num_noises: int, weight: float, hard: bool) -> Setting:
    """Of exact_redge. Raises TypeError or ValueError for arguments out of range and misspelt names."""
    check_flag("hard", hard)
    lambdas = make_schedule(grid, num_steps, t1).lambdas
    weight = check_number("second_order_weight", weight, least=0.0, most=2.0) if hard else 0.0
    return Setting("exact_redge", lambdas, "euler", hard, check_count("num_noises", num_noises), weight=weight)
