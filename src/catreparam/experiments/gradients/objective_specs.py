"""Objectives as users name them: a built-in toy objective, or `module:function` of their own."""

import importlib
import sys
from pathlib import Path
from typing import cast

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
    module_name, _, name = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"objective {spec!r}: cannot import {module_name!r} ({error})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"objective {spec!r}: {module_name} has no function called {name!r}")
    return cast(Objective, function)
