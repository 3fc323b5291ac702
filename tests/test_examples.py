"""The examples are short, and each runs and prints its table; the numbers are small here, so that it takes a moment."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
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
