"""Objectives and logits as users name them: built in, `module:function` of their own, or a file of logits."""

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from catreparam.estimators.joint import Objective
from catreparam.objectives.toy import OBJECTIVES, make_objective


def build_objective(spec: str, *, num_variables: int, num_classes: int, seed: int) -> Objective:
    """The objective called `spec`: a name in OBJECTIVES, or `module:function`, imported from the working folder too.

    The function maps one-hot x [*batch, num_variables, num_classes] to a loss [*batch]. Raises ValueError for an
    unknown name, a module that cannot be imported, or a name in it that is missing or not callable.
    """
    if ":" not in spec:
        if spec not in OBJECTIVES:
            raise ValueError(
                f"unknown objective {spec!r}. Choose from: {', '.join(OBJECTIVES)}; or give your own as module:function"
            )
        return make_objective(spec, num_variables=num_variables, num_classes=num_classes, seed=seed)
    function = find_function("objective", spec)

    @functools.wraps(function)
    def objective(x: Tensor) -> Any:
        try:
            return function(x)
        except Exception as error:
            raise ValueError(
                f"objective {spec!r} failed on x of shape {tuple(x.shape)}, {x.dtype}: {error}. Set --num-variables "
                "and --num-classes, or (tune) --logits; make constants in the dtype of x, by x.new_tensor say"
            ) from error

    return cast(Objective, objective)


def load_logits(spec: str) -> Tensor:
    """Logits [*batch, num_variables, num_classes] in float64, from a file or from `module:function`, without arguments.

    A .npy file holds one array, a .safetensors or .pt file one tensor or one called `logits`. Raises ValueError for a
    file that is missing, damaged or of another kind, and for what is no tensor of at least two axes.
    """
    path = Path(spec).expanduser()
    if path.suffix in READERS:
        try:
            found = READERS[path.suffix](path)
        except Exception as error:
            raise ValueError(f"logits {spec!r}: cannot be read ({str(error).strip().splitlines()[0]})") from error
    elif ":" in spec:
        found = find_function("logits", spec)()
    else:
        raise ValueError(f"logits {spec!r}: give a {', '.join(READERS)} file or module:function")
    if isinstance(found, dict):
        found = found.get("logits", next(iter(found.values())) if len(found) == 1 else found)
    if isinstance(found, dict):
        raise ValueError(f"logits {spec!r}: several tensors and none called 'logits': {', '.join(found)}")
    if not isinstance(found, Tensor) or found.ndim < 2 or not found.is_floating_point():
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"logits {spec!r}: need a float tensor [..., num_variables, num_classes], got {shape}")
    return found.detach().cpu().double()


def _npy(path: Path) -> Tensor:
    import numpy

    return torch.as_tensor(numpy.load(path, allow_pickle=False))


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _pt(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


READERS: dict[str, Callable[[Path], Any]] = {".npy": _npy, ".safetensors": _safetensors, ".pt": _pt}


def find_function(what: str, spec: str) -> Callable[..., Any]:
    """`module:function`, imported from the working folder too. Raises ValueError, also for what the import raises."""
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise ValueError(f"{what} {spec!r}: give a module and a function of it as module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ValueError(f"{what} {spec!r}: cannot import {module_name!r} ({said})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{what} {spec!r}: {module_name} has no function called {name!r}")
    return function
