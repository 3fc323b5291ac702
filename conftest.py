"""Shared by doctests and tests: torch in every doctest; shape checks of the package on request."""

import os

import pytest
import torch

if os.environ.get("CATREPARAM_CHECK_SHAPES") == "1":  # `make shapes`: every jaxtyping annotation is checked at run time
    from jaxtyping import install_import_hook

    # torch reads the annotations of its custom operators itself, so kernels that register some stay as they are
    checked = ("categorical", "noise_schedule", "estimators", "gradients", "objectives", "models", "data", "report")
    twins = ("kernels.chain", "kernels.exact_law")
    install_import_hook([f"catreparam.{name}" for name in (*checked, *twins)], "beartype.beartype")


@pytest.fixture(autouse=True)
def _torch_in_doctests(doctest_namespace):
    doctest_namespace["torch"] = torch
