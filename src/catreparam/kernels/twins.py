"""The naive twin of every compiled kernel: the same surrogate, noise and sample given. For second derivatives and tests."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from catreparam.kernels import library
from catreparam.kernels.library import Setting
from catreparam.noise_schedule import NoiseSchedule

MODULES = {"lambda_reinmax": "reinmax", "redge_cov": "redge"}  # where the method's name is not the module's


def naive_surrogate(setting: Setting, logits: Tensor, noise: Tensor | None, x: Tensor | None) -> Tensor:
    """The estimator's `<method>_surrogate` for float rows: its ordinary gradient is what the kernel returns."""
    # By name: kernels stand below estimators, whose surrogates are the truth that kernels are held to.
    module = importlib.import_module(f"catreparam.estimators.{MODULES.get(setting.method, setting.method)}")
    surrogate = getattr(module, f"{setting.method}_surrogate")
    return surrogate(logits, **_arguments(setting, noise, x))


def noise_and_sample(setting: Setting, logits: Tensor, seed: int) -> tuple[Tensor | None, Tensor | None]:
    """What the kernel draws from a seed: the noise, and the one-hot x where the gradient needs it; None otherwise."""
    rows = logits.detach()
    needs_noise = setting.method not in ("straight_through", "reinmax", "lambda_reinmax")
    needs_x = setting.method in ("reinmax", "lambda_reinmax", "reindge", "exact_redge")
    noise = library.replay(setting, rows.shape, seed) if needs_noise else None
    x = library.forward(setting._replace(hard=True), rows, seed)[0].float() if needs_x else None
    return noise, x


def naive_gradient(setting: Setting, logits: Tensor, upstream: Tensor, seed: int) -> Tensor:
    """What `library.backward` returns, as a differentiable function of logits and upstream gradient."""
    noise, x = noise_and_sample(setting, logits, seed)
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
