"""The notebooks run top to bottom in a fresh kernel, are committed without outputs, and stand on the site with them."""

import re
import runpy
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install 'catreparam[dev]'")
nbclient = pytest.importorskip("nbclient", reason="pip install 'catreparam[dev]'")

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SITE = runpy.run_path(str(ROOT / "scripts" / "site" / "notebooks.py"))


def test_there_are_three_notebooks():
    assert len(NOTEBOOKS) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_page_of_a_notebook_has_its_cells_and_figures(path):
    page = SITE["page_of"](path.stem)
    text = page.read_text(encoding="utf-8")
    for kind, cell in SITE["cells"](path):
        assert (cell if kind == "markdown" else f"```py\n{cell}\n```") in text, "python scripts/site/notebooks.py"
    shown = re.findall(r"\]\((\.\./images/\S+\.svg)\)", text)
    assert len(shown) == len(re.findall(r'\bnum="', text)) > 0
    assert all((page.parent / figure).exists() for figure in shown)


def test_a_notebooks_page_shows_what_cells_print_return_and_draw(tmp_path, monkeypatch):
    run = SITE["run"]
    monkeypatch.setitem(run.__globals__, "PAGES", tmp_path)
    cells = [("markdown", "# T"), ("code", "a = 2\nprint('said')\na * 3"), ("code", "a;"), ("code", "None")]
    monkeypatch.setitem(run.__globals__, "cells", lambda _: cells)
    text = run(ROOT / "notebooks" / "some.ipynb")
    assert text.count("```text") == 1
    assert "```text\nsaid\n6\n```" in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs_top_to_bottom(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    nbclient.NotebookClient(notebook, timeout=300, startup_timeout=300, kernel_name="python3").execute()
    assert any(cell.outputs for cell in code)
