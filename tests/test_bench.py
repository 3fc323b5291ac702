"""`catreparam bench` on tiny shapes: what it writes, and that it refuses to time a path whose parity is red."""

import json

import pytest
import torch

from catreparam.cli import main
from catreparam.experiments import bench
from catreparam.experiments.bench_samplers import TOLERANCE, find_samplers, parity_error
from catreparam.kernels import dispatch


def tiny(**options) -> bench.Config:
    return bench.Config(**{"shapes": ("3x2", "2x5"), "rounds": 2, "curves": False, **options})


def test_every_path_of_ours_passes_its_parity_check():
    samplers, _ = find_samplers()
    assert {sampler.path for sampler in samplers} >= {"torch", "naive"}
    assert all(parity_error(sampler) < TOLERANCE for sampler in samplers)


def test_every_sampler_is_timed_at_every_shape(tmp_path):
    report = bench.run(tiny(folder=tmp_path))
    samplers, _ = find_samplers()
    assert len(report.table.rows) == 2 * len(samplers)
    assert all(row["both"] > row["forward"] > 0 for row in report.table.rows)
    content = json.loads((tmp_path / "bench.json").read_text())
    assert content["rows"] == list(report.table.rows)
    assert (tmp_path / "report.html").exists()
    assert "redge (torch)" in (tmp_path / "table.md").read_text()


def test_a_path_with_wrong_gradients_is_named_and_not_timed(monkeypatch):
    wrong = {"redge (torch)"}
    monkeypatch.setattr(bench, "parity_error", lambda sampler: float("nan") if sampler.label in wrong else 0.0)
    report = bench.run(tiny(shapes=("2x3",)))
    assert "redge (torch)" in report.warning
    assert "redge (torch)" not in [row["sampler"] for row in report.table.rows]


def test_curves_have_a_point_for_every_case(monkeypatch):
    monkeypatch.setattr(bench, "_curves", lambda quick: {"rows": [bench.Case((1, 3), x=1), bench.Case((2, 3), 2, x=2)]})
    report = bench.run(tiny(shapes=("2x3",), curves=True))
    assert [list(curve.x) for curve in report.plots[0].curves] == [[1, 2]] * len(report.plots[0].curves)


def test_the_path_is_as_before(monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "naive")
    for sampler in find_samplers()[0]:
        sampler(torch.zeros(2, 3, requires_grad=True))
    assert dispatch.wanted() == "naive"


def test_only_the_samplers_asked_for_are_timed(capsys):
    report = bench.run(tiny(shapes=("2x3",), samplers=("redge (naive)", "torch gumbel_softmax")))
    assert {row["sampler"] for row in report.table.rows} == {"redge (naive)", "torch gumbel_softmax"}
    assert all(row["peak"] >= 2 for row in report.table.rows)
    assert main(["bench", "--samplers", "regde"]) == 2
    assert "redge" in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["", "3x", "axb", "0x3", "3x-1"])
def test_a_bad_shape_is_a_message_not_a_traceback(shape, capsys):
    assert main(["bench", "--shapes", shape]) == 2
    assert "100x30x10" in capsys.readouterr().err
