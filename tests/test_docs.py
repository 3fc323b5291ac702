"""The README's and the docs' Python blocks run, every page is on the site, every estimator has a page and a figure."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from catreparam import ESTIMATORS

ROOT = Path(__file__).parent.parent
PROBLEM_WITH_PAGE = runpy.run_path(str(ROOT / "scripts" / "site" / "estimators.py"))["problem_with_page"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_blocks_run_top_to_bottom(page):
    names: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_files_that_exist(page):
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_has_a_page_with_a_figure(name):
    problem = PROBLEM_WITH_PAGE(name, ROOT / "docs")
    assert not problem, problem


def test_every_page_is_reachable_from_the_navigation():
    listed = set(re.findall(r"^ +- .*?(\S+\.md)\b", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M))
    listed |= {f"estimators/{name}.md" for name in ESTIMATORS}  # scripts/site/estimators.py adds them
    written = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]}
    assert listed == written


DEFAULT = 'expectation(loss, logits, estimator="reinmax_rloo", num_samples=4)'
SAID_ON = ("README.md", "docs/index.md", "docs/which-estimator.md", "docs/guides/vae.md")


def test_one_default_is_recommended_everywhere():
    claim = "it is never far from the best, after short and after long training."
    for page in SAID_ON:
        text = " ".join((ROOT / page).read_text(encoding="utf-8").replace("*", "").split())
        assert f"Start with `{DEFAULT}`: {claim}" in text, page
    others = [page for page in PAGES if page_id(page) not in SAID_ON]
    advice = re.compile(rf"(?i)\bstart (from|with) `({'|'.join(ESTIMATORS)})\b|first try")
    assert [page_id(page) for page in others if advice.search(page.read_text(encoding="utf-8"))] == []


def test_the_default_is_what_the_evidence_says():
    behind = runpy.run_path(str(ROOT / "scripts" / "site" / "chart.py"))["behind"]()
    assert min(behind, key=behind.__getitem__) == "reinmax_rloo"
    assert behind["reinmax_rloo"] < 6
    assert all(distance > 18 for name, distance in behind.items() if name != "reinmax_rloo")


MEASURED = ("vae", "vae-48x2-longer")


def test_the_evidence_shows_the_measured_tables():
    written = [(ROOT / "docs" / "results" / f"{name}.md").read_text(encoding="utf-8") for name in MEASURED]
    tables = [table for text in written for table in re.findall(r"(?:^\|.*\n)+", text, re.M)]
    assert [table.count("\n") for table in tables] == [10, 8]
    shown = (ROOT / "docs/evidence.md").read_text(encoding="utf-8")
    assert all(table in shown for table in tables)


def test_the_page_on_antibodies_shows_the_measured_table():
    written = (ROOT / "docs" / "results" / "antibody" / "summary.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"(?:^\|.*\n)+", written, re.M)
    assert table.count("\n") == 14
    assert table in (ROOT / "docs" / "antibody.md").read_text(encoding="utf-8")


def test_importing_the_package_needs_no_optional_dependency():
    optional = ("tyro", "rich", "matplotlib", "sklearn", "safetensors", "jax")
    code = f"import sys, catreparam; print([name for name in {optional} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
