"""Shared by doctests and tests: torch in every doctest, JAX in its own; shape checks of the package on request."""

import importlib
import importlib.util
import os
import re
import zlib
from collections import Counter

import pytest
import torch

# JAX's tests compile much and run little. Where JAX is not installed its doctests cannot be collected.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
collect_ignore_glob = [] if importlib.util.find_spec("jax") else ["src/catreparam/jax/*"]
collect_ignore_glob += [] if importlib.util.find_spec("numpyro") else ["src/catreparam/jax/numpyro.py"]
collect_ignore_glob += ["tests/*_bed.py"]  # programs that tests start
if importlib.util.find_spec("triton") is None:
    names = ("noise", "rows", "pieces", "*forward", "*backward", "streamed_sweep")  # of files that import it
    collect_ignore_glob += [f"src/catreparam/kernels/triton/{name}.py" for name in names]

if os.environ.get("CATREPARAM_CHECK_SHAPES") == "1":  # `make shapes`: every jaxtyping annotation is checked at run time
    from jaxtyping import install_import_hook

    # torch reads the annotations of its custom operators itself, so kernels that register some stay as they are
    checked = ("categorical", "noise_schedule", "estimators", "gradients", "objectives", "models", "data", "report")
    checked += ("masked_diffusion", "guidance")
    twins = ("kernels.naive.chain", "kernels.naive.exact_law")
    install_import_hook([f"catreparam.{name}" for name in (*checked, *twins)], "beartype.beartype")


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order(request):
    """Weights and draws from torch's own generator do not depend on the tests that this process ran before."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def _checked_distributions():
    """torch.compile turns the argument checks of torch's distributions off for the rest of the process."""
    torch.distributions.Distribution.set_default_validate_args(__debug__)


@pytest.fixture(autouse=True)
def _arrays_in_doctests(doctest_namespace, request):
    doctest_namespace["torch"] = torch
    if "catreparam/jax" in request.path.as_posix():
        doctest_namespace |= {"jax": importlib.import_module("jax"), "jnp": importlib.import_module("jax.numpy")}


# The only reasons for which CI may skip a test: what its machine lacks and no package brings
SKIPS = re.compile(
    r"no CUDA device|.* on CUDA tensors only|there is a GPU|this processor has no avx"
    + ("|no browser" if os.environ.get("CATREPARAM_PAGES_UNSEEN") else "")  # .ci/run: the registry gave none
)


def _skips(config):
    """Why tests were skipped, and how many for each reason; of all workers, in the process that prints."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = [] if reporter is None or hasattr(config, "workerinput") else reporter.stats.get("skipped", [])
    return Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)


def _refused(config):
    return [reason for reason in _skips(config) if not SKIPS.match(reason)] if os.environ.get("CI") else []


def pytest_sessionfinish(session, exitstatus):
    if exitstatus == pytest.ExitCode.OK and _refused(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if os.environ.get("CI"):
        for reason, count in sorted(_skips(config).items()):
            terminalreporter.write_line(f"{count} skipped: {reason}")
    for reason in _refused(config):
        terminalreporter.write_line(f"CI may not skip tests for this reason (SKIPS in conftest.py): {reason}", red=True)
