"""The samplers that are timed: ours on every path, and whatever peers are installed."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import OneHotCategoricalStraightThrough

import catreparam
from catreparam.kernels import library


@dataclass(frozen=True)
class Sampler:
    """`draw` takes logits and returns a sample with a gradient; `path` is which of our kernels it takes."""

    name: str
    draw: Callable[[Tensor], Tensor]
    path: str = ""

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        if self.path:
            os.environ["CATREPARAM_KERNELS"] = self.path
        try:
            yield
        finally:
            os.environ.pop("CATREPARAM_KERNELS", None)


def find_samplers() -> tuple[list[Sampler], list[str]]:
    """All samplers that can be timed here, and the names of what is not installed."""
    samplers = [
        Sampler("torch gumbel_softmax", lambda logits: torch.nn.functional.gumbel_softmax(logits, hard=True)),
        Sampler("torch OneHotCategoricalStraightThrough", _torch_straight_through),
    ]
    missing = []
    if (redge := _optional("redge")) is not None:
        samplers.append(Sampler("redge 0.1.0", lambda logits: redge.redge(logits, n_steps=5, t_1=0.5)))
    else:
        missing.append("redge")
    if (reinmax := _optional("reinmax")) is not None:
        samplers.append(Sampler("reinmax package", lambda logits: reinmax.reinmax(logits, 1.0)[0]))
    else:
        missing.append("reinmax")
    paths = ["naive", "compiled"] if library.BUILT else ["naive"]
    if not library.BUILT:
        missing.append("compiled kernels")
    ours = {
        "redge": lambda logits: catreparam.redge(logits),
        "exact_redge": lambda logits: catreparam.exact_redge(logits),
        "exact_redge, 4 noises": lambda logits: catreparam.exact_redge(logits, num_noises=4),
        "reinmax": lambda logits: catreparam.reinmax(logits),
        "straight_through": lambda logits: catreparam.straight_through(logits),
        "gumbel_softmax": lambda logits: catreparam.gumbel_softmax(logits),
    }
    samplers += [Sampler(f"{name} ({path})", draw, path) for path in paths for name, draw in ours.items()]
    return samplers, missing


def _torch_straight_through(logits: Tensor) -> Tensor:
    return OneHotCategoricalStraightThrough(logits=logits, validate_args=False).rsample()


def _optional(name: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
