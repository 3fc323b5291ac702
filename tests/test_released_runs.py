"""Run folders written before the modules moved still report and resume (fixtures/released_runs says how they came)."""

import json
import shutil
from pathlib import Path

import pytest

from catreparam.cli import main
from catreparam.experiments.sudoku import priors
from catreparam.experiments.sudoku import train as sudoku_train
from catreparam.kernels import dispatch

RELEASED = Path(__file__).parent / "fixtures" / "released_runs"
COMMANDS = json.loads((RELEASED / "commands.json").read_text())
CLOSE = {"sudoku-prior": 1e-2}  # it trains in bfloat16, whose rounding depends on the processor


@pytest.fixture(params=COMMANDS)
def released(request, tmp_path, monkeypatch):
    """A copy of a released folder, of the name of its command."""
    if request.param == "sudoku-prior":
        monkeypatch.setitem(priors.DESIGN, "width", 6)
        monkeypatch.setitem(priors.DESIGN, "num_loops", 2)
        monkeypatch.setattr(sudoku_train, "STEPS_A_RECORD", 4)
    return Path(shutil.copytree(RELEASED / request.param, tmp_path / request.param))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_released_folder_reports_the_table_it_had(released):
    assert main(["report", str(released)]) == 0
    said = (RELEASED / f"{released.name}.table.jsonl").read_text().replace("FOLDER", str(released))
    rows = [json.loads(line) for line in said.splitlines()]
    for now, then in zip(lines_of(released / "table.jsonl"), rows, strict=True):
        assert_alike(now, then, 1e-5)


def test_a_released_run_killed_midway_ends_with_the_numbers_of_one_that_was_not(released):
    """Fails by chance where another machine's rounding turns a draw: less than once in a thousand machines."""
    kept = (released / "metrics.jsonl").read_text().splitlines()
    with dispatch.using("naive"):
        assert main([*COMMANDS[released.name].split(), "--folder", str(released)]) == 0
    assert set(kept) <= set((released / "metrics.jsonl").read_text().splitlines())  # nothing was made twice
    whole = untimed(lines_of(RELEASED / f"{released.name}.whole.jsonl"))
    for now, then in zip(untimed(lines_of(released / "metrics.jsonl")), whole, strict=True):
        assert_alike(now, then, CLOSE.get(released.name, 1e-4))


def untimed(records):
    """Records without timings, in an order that does not depend on interruptions."""
    kept = [{k: v for k, v in r.items() if "seconds" not in k} for r in records]
    names = ("phase", "level", "prior", "method", "power", "estimator", "number", "strength", "seed", "epoch", "step")
    return sorted(kept, key=lambda r: [str(r.get(name)) for name in names])


def assert_alike(now, then, rel):
    """The same keys or more, and values of any depth that differ by rounding at most."""
    if isinstance(then, dict):
        assert now.keys() >= then.keys()
        for key in then:
            assert_alike(now[key], then[key], rel)
    elif isinstance(then, list):
        for one, other in zip(now, then, strict=True):
            assert_alike(one, other, rel)
    elif isinstance(then, float):
        assert now == pytest.approx(then, rel=rel, abs=1e-6)
    else:
        assert now == then
