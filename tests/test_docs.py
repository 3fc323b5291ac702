"""The README's and the docs' Python blocks run, every page is on the site, every estimator has a page and a figure."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from catreparam import ESTIMATORS, alpha_grid, redge_cov_surrogate, redge_surrogate

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
    claim = "at its defaults it was at most 2 nats behind the best of nine estimators, on three small VAEs."
    for page in SAID_ON:
        text = " ".join((ROOT / page).read_text(encoding="utf-8").replace("*", "").split())
        assert f"Start with `{DEFAULT}`: {claim}" in text, page
    others = [page for page in PAGES if page_id(page) not in SAID_ON]
    advice = re.compile(rf"(?i)\bstart (from|with) `({'|'.join(ESTIMATORS)})\b|first try")
    assert [page_id(page) for page in others if advice.search(page.read_text(encoding="utf-8"))] == []


def test_the_default_is_what_the_evidence_says():
    behind = runpy.run_path(str(ROOT / "scripts" / "site" / "chart.py"))["behind"]()
    assert min(behind, key=behind.__getitem__) == "reinmax_rloo"
    assert behind["reinmax_rloo"] < 2
    assert len(behind) == 9
    assert all(7 < distance < 28 for name, distance in behind.items() if name != "reinmax_rloo")


def paragraphs(page: Path) -> list[str]:
    """The paragraphs, list items and table rows of a page, each on a line."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n|\n(?=[|-])", prose)]


# One fact, one place: whoever says it too links there
SAID_ONCE = {
    "estimators.md#the-law-of-the-hard-sample": r"(?i)\blaw\b[^.]*\bdrifts?\b|\bdrifts?\b[^.]*\blaw\b",
    "moe.md#which-experts-must-run": r"(?i)\bexperts?\b[^.|]*\b(not |un)chosen\b|\bchosen experts?\b[^.|]*\brun\b",
}


@pytest.mark.parametrize("place", SAID_ONCE)
def test_what_is_said_in_one_place_is_linked_to_from_the_others(place):
    said, (home, anchor) = re.compile(SAID_ONCE[place]), place.split("#")
    for page in PAGES:
        if page.name != home and "results" not in page.parts:
            alone = [text for text in paragraphs(page) if said.search(text) and f"#{anchor}" not in text]
            assert alone == [], f"{page_id(page)}: link to {place}"


@pytest.mark.parametrize("num_classes", [3, 10])
def test_the_law_drifts_below_the_t1_that_the_page_names(num_classes):
    text = " ".join((ROOT / "docs" / "estimators.md").read_text(encoding="utf-8").split())
    assert "within 0.005 of softmax(logits) at t1 = 0.5 and above. Below 0.5 it drifts.**" in text
    assert "That of `redge_cov` drifts below 0.7 already." in text
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 1, num_classes, generator=generator)
    half = torch.randn(8, 10_000, num_classes, generator=generator)

    def distance(surrogate, t1: float) -> float:
        law = surrogate(logits, noise=torch.cat([half, -half], 1), schedule=alpha_grid(4, t1)).mean(1)
        return float((law - torch.softmax(logits[:, 0], -1)).abs().sum(-1).mean() / 2)

    assert [distance(redge_surrogate, t1) < 0.005 for t1 in (0.4, 0.5, 0.7, 0.9)] == [False, True, True, True]
    assert [distance(redge_cov_surrogate, t1) < 0.01 for t1 in (0.5, 0.7, 0.9)] == [False, True, True]


def test_importing_the_package_needs_no_optional_dependency():
    optional = ("tyro", "rich", "matplotlib", "sklearn", "safetensors", "jax")
    code = f"import sys, catreparam; print([name for name in {optional} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
