"""The examples are short, each prints its table and is in the gallery; with small numbers here, it takes a moment."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
GALLERY = runpy.run_path(str(ROOT / "scripts" / "site" / "gallery.py"))
SMALL = {"NUM_NOISES": 20, "NUM_DRAWS": 40, "NUM_STEPS": 3, "NUM_RESTARTS": 4, "NUM_SEEDS": 1, "NUM_POINTS": 40}
SMALL_HERE = {"law_of_redge.py": {"NUM_ROWS": 20}, "guide_chain.py": {"NUM_ROWS": 40}, "black_box.py": {"NUM_ROWS": 4}}
TESTED_ELSEWHERE = ["guide_memory.py"]  # it measures a process of its own: tests/test_guidance_memory.py


def test_there_are_ten_examples_or_more():
    assert len(EXAMPLES) >= 10


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short_and_explains_itself(example):
    text = example.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert text.startswith('"""')


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.name not in TESTED_ELSEWHERE], ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_example_prints_a_table(example, monkeypatch, capsys):
    main = runpy.run_path(str(example))["main"]
    for name, size in {**SMALL, **SMALL_HERE.get(example.name, {})}.items():
        if name in main.__globals__:
            monkeypatch.setitem(main.__globals__, name, size)
    main()
    printed = capsys.readouterr().out
    assert "|---" in printed
    assert "nan" not in printed
    kept = (GALLERY["PRINTED"] / f"{example.stem}.txt").read_text(encoding="utf-8")
    assert columns(printed) == columns(kept), f"python scripts/site/gallery.py --run {example.stem}"


def columns(printed: str) -> list[str]:
    return [re.sub(r"\d+ seeds", "seeds", head) for head in GALLERY["table"](printed)[0]]


def test_the_gallery_shows_every_example_and_notebook():
    text = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert set(GALLERY["CHARTS"]) == {example.stem for example in EXAMPLES}
    for example in EXAMPLES:
        picture = f"images/gallery-{example.stem.replace('_', '-')}.svg"
        assert (ROOT / "docs" / picture).exists()
        assert text.count(picture) == 2  # the thumbnail, and above its table
        assert f"<!-- example: {example.stem} -->" in text
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"(notebooks/{notebook.stem.replace('_', '-')}.md)" in text


def test_the_gallery_reads_names_and_numbers_off_a_table():
    head, rows = GALLERY["table"](
        "Said.\n\n| a | b |\n|---|---:|\n| `make_estimator('redge', t1=0.5)` | **0.5** ± 2, -1 |\n"
    )
    assert head == ["a", "b"]
    chart = GALLERY["Chart"]("t", slice(1, 2))
    assert [GALLERY["label_of"](row, chart) for row in rows] == ["redge"]
    assert GALLERY["numbers"]("**0.5**, -1") == [0.5, -1.0]
    assert GALLERY["numbers"]("0.5007 ± 0.0215") == [0.5007]
    assert GALLERY["estimator_in"]("guided, exact_redge", ("redge", "exact_redge")) == "exact_redge"
