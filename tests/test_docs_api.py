"""Every public name stands on one API page, every class with its constructor, parameters and fields."""

import importlib
import inspect
import re
import runpy
import sys
from pathlib import Path

import pytest
from torch import nn

from catreparam.gradients import Reference, TuneResult, TuneRow
from catreparam.integrations.gradient_variance import GradientVariance, log_gradient_variance

ROOT = Path(__file__).parent.parent
PUBLIC = re.findall(r"^(\S+?)\.(\w+)(?:\((.*)\))?$", (ROOT / "tests" / "public_api.txt").read_text("utf-8"), re.M)
ALSO = (GradientVariance, Reference, TuneResult, TuneRow, log_gradient_variance)  # told of by those above


def the(module: str, name: str):
    if module.startswith("catreparam.jax"):
        pytest.importorskip("jax", reason="pip install 'catreparam[jax]'")
    if module.endswith("hugging_face"):
        pytest.importorskip("transformers", reason="pip install 'catreparam[integrations]'")
    return getattr(importlib.import_module(module), name)


def classes():
    shown = {f"{module}.{name}": (module, name) for module, name, _ in PUBLIC if name[0].isupper()}
    return [pytest.param(*key, id=key[1]) for key in shown.values() if not key[0].startswith("catreparam.jax")] + [
        pytest.param(cls.__module__, cls.__name__, id=cls.__name__) for cls in ALSO
    ]


def pages() -> dict[str, str]:
    """Markdown of the API pages, what the build fills in included."""
    fill = runpy.run_path(str(ROOT / "scripts" / "site" / "estimators.py"))["on_page_markdown"]
    return {page.name: fill(page.read_text(encoding="utf-8")) for page in sorted((ROOT / "docs" / "api").glob("*.md"))}


def test_every_public_name_stands_on_one_api_page():
    pytest.importorskip("jax", reason="pip install 'catreparam[jax]'")
    written = [path for text in pages().values() for path in re.findall(r"^::: (\S+)$", text, re.M)]
    shown = [(path, the(*path.rsplit(".", 1))) for path in written]
    modules = [path for path in written if path in sys.modules]
    assert modules == [], "a module, which shows all that is in it: name the thing inside"
    for module, name, _ in PUBLIC:
        wanted = the(module, name)
        places = [path for path, thing in shown if thing is wanted]
        assert len(places) == 1, (f"{module}.{name} belongs on one page under docs/api", places)


@pytest.mark.parametrize(("module", "name"), classes())
def test_every_class_says_what_its_parameters_are(module, name):
    pytest.importorskip("griffe", reason="pip install 'catreparam[docs]'")
    entries = runpy.run_path(str(ROOT / "scripts" / "site" / "docstrings.py"))["entries"]
    cls = the(module, name)
    if not inspect.isclass(cls) or issubclass(cls, Exception):
        return
    said = entries(inspect.getdoc(cls) or "")
    try:
        parameters = inspect.signature(cls).parameters
    except ValueError:  # made by a function
        parameters = {}
    wanted = [] if getattr(cls, "_is_protocol", False) else list(parameters)
    assert [key for key in wanted if not said.get(key)] == [], "say what it is, under `Parameters:` or `Fields:`"
    assert set(said) <= {*wanted, *inspect.get_annotations(cls)}, "no such parameter"
    for method in ("forward", "__call__"):
        if method in vars(cls) and issubclass(cls, nn.Module):
            assert vars(cls)[method].__doc__, f"say what {method} does: without a docstring no page shows it"
