"""The README's and the docs' Python blocks run, and the examples print what they promise."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_top_to_bottom(page):
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_print_a_table(example, monkeypatch, capsys):
    assert len(example.read_text(encoding="utf-8").splitlines()) < 60
    module = runpy.run_path(str(example))
    main = module["main"]
    for size in ("NUM_NOISES", "NUM_ROWS"):
        if size in module:
            monkeypatch.setitem(main.__globals__, size, 20)
    main()
    assert "|---|" in capsys.readouterr().out


def test_importing_the_package_needs_no_optional_dependency():
    optional = ("tyro", "rich", "matplotlib", "sklearn", "safetensors")
    code = f"import sys, catreparam; print([name for name in {optional} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
