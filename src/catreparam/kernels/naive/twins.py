"""The naive twin of every compiled kernel, noise and sample given: for second derivatives and for tests."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from catreparam.kernels.settings import Setting
from catreparam.noise_schedule import NoiseSchedule

MODULES = {"lambda_reinmax": "reinmax", "redge_cov": "redge"}  # where the method's name is not the module's


def naive_surrogate(setting: Setting, logits: Tensor, noise: Tensor | None, x: Tensor | None) -> Tensor:
    """The estimator's `<method>_surrogate` for float rows: its ordinary gradient is what the kernel returns."""
    # By name: kernels stand below estimators, whose surrogates are the truth that kernels are held to.
    module = importlib.import_module(f"catreparam.estimators.{MODULES.get(setting.method, setting.method)}")
    surrogate = getattr(module, f"{setting.method}_surrogate")
    return surrogate(logits, **_arguments(setting, noise, x))


def needs_noise(setting: Setting) -> bool:
    """Whether the surrogate takes noise."""
    return setting.method not in ("straight_through", "reinmax", "lambda_reinmax")


def needs_sample(setting: Setting) -> bool:
    """Whether the surrogate takes the hard sample."""
    return setting.method in ("reinmax", "lambda_reinmax", "reindge", "exact_redge")


def naive_gradient(
    setting: Setting, logits: Tensor, upstream: Tensor, noise: Tensor | None, x: Tensor | None
) -> Tensor:
    """What `library.backward` returns, as a differentiable function of logits and upstream gradient."""
    with torch.enable_grad():
        rows = logits if logits.requires_grad else logits.detach().requires_grad_()
        surrogate = naive_surrogate(setting, rows.float(), noise, x)
        return torch.autograd.grad(surrogate, rows, upstream.to(surrogate.dtype), create_graph=True)[0]


def _arguments(setting: Setting, noise: Tensor | None, x: Tensor | None) -> dict[str, Any]:
    chain = {"noise": noise, "schedule": NoiseSchedule(setting.lambdas)}
    return {
        "straight_through": {},
        "gumbel_softmax": {"noise": noise, "temperature": setting.temperature},
        "reinmax": {"x": x, "temperature": setting.temperature},
        "lambda_reinmax": {"x": x, "weight": setting.weight},
        "redge": {**chain, "solver": setting.solver},
        "redge_cov": {**chain, "solver": setting.solver},
        "reindge": {**chain, "x": x, "solver": setting.solver},
        "exact_redge": {**chain, "x": x, "second_order_weight": setting.weight if setting.hard else 0.0},
    }[setting.method]
