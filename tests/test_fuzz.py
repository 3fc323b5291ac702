"""A slice of the fuzz of kernels: `scripts/fuzz_kernels.py`, whose other calls are run by hand."""

import importlib.util
from pathlib import Path

import pytest

from catreparam.kernels.compiled import library


@pytest.fixture(scope="module")
def fuzz():
    path = Path(__file__).parent.parent / "scripts" / "fuzz_kernels.py"
    spec = importlib.util.spec_from_file_location("fuzz_kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    library.choose_instruction_set("")
    return module


@pytest.mark.parametrize("path", ["compiled", "torch"])
def test_random_calls_agree_with_the_naive_twin(fuzz, path):
    if path == "compiled" and not library.BUILT:
        pytest.skip("the compiled kernels were not built (no C++ compiler)")
    counts, mismatches = fuzz.fuzz(1, 0, 300, [path])
    assert not mismatches
    assert sum(counts.values()) == 300
    assert len(counts) >= 7


def test_a_wrong_gradient_is_a_mismatch(fuzz, monkeypatch):
    run = fuzz.run

    def wrong(problem):
        value, gradient = run(problem)
        return value, gradient + 1e-2 * problem.upstream

    monkeypatch.setattr(fuzz, "run", wrong)
    _, mismatches = fuzz.fuzz(1, 0, 20, ["torch"])
    assert len(mismatches) > 10


def test_a_call_is_determined_by_its_number(fuzz, capsys):
    problem, again = (fuzz.make_problem(0, 17, ["torch"]) for _ in range(2))
    assert str(problem) == str(again)
    assert fuzz.main(["--first", "17", "--calls", "2", "--paths", "torch"]) == 0
    assert "2 calls, 0 mismatches" in capsys.readouterr().out
