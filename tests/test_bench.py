"""`catreparam bench` on tiny shapes: what it writes, and that it refuses to time a path whose parity is red."""

import json
import math

import pytest
import torch

from catreparam.cli import main
from catreparam.experiments.bench import study as bench
from catreparam.experiments.bench.samplers import TOLERANCE, Sampler, find_samplers, parity_error, why_no_triton
from catreparam.experiments.bench.scaling import LINEAR, Scaling, fits, fitted_exponent, scalings
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


def test_curves_have_a_point_for_every_case_and_a_fitted_exponent(monkeypatch, tmp_path):
    short = Scaling("rows", "rows of 3", [bench.Case((1, 3), x=1), bench.Case((2, 3), 2, x=2)])
    monkeypatch.setattr(bench, "scalings", lambda quick: [short])
    report = bench.run(tiny(shapes=("2x3",), curves=True, folder=tmp_path))
    assert [list(curve.x) for curve in report.plots[0].curves] == [[1, 2]] * len(report.plots[0].curves)
    assert report.plots[0].curves[-1].label == LINEAR
    table = report.appendix["Fitted exponents"]
    assert len(table.rows) == len(report.plots[0].curves) - 1
    assert (tmp_path / "cost-rows.svg").read_text().startswith("<svg")
    assert "exponent" in (tmp_path / "fitted-exponents.md").read_text()
    assert json.loads((tmp_path / "bench.json").read_text())["exponents"] == list(table.rows)


def test_curves_cover_what_the_design_asks_for():
    full = {scaling.name: scaling.cases for scaling in scalings(quick=False)}
    sizes = [math.prod(case.shape) for case in full["elements"]]
    assert max(sizes) / min(sizes) >= 1e5
    assert (full["classes"][0].x, full["classes"][-1].x) == (2, 100_000)
    assert (full["steps"][0].num_steps, full["steps"][-1].num_steps) == (1, 32)
    ours, peer = Sampler("redge", torch.clone, "compiled"), Sampler("peer", torch.clone)
    assert fits(ours, full["elements"][-1])
    assert not fits(peer, full["elements"][-1])
    assert fits(peer, full["elements"][-2])


def test_an_exponent_is_fitted_to_the_largest_two_decades():
    x = [1, 10, 100, 1000]
    assert fitted_exponent(x, [9.0, 2.0, 4.0, 8.0]) == pytest.approx(math.log10(2))
    assert fitted_exponent([5], [1.0]) is None


def test_why_a_path_is_missing_is_said():
    _, missing = find_samplers()
    note = bench.run(tiny(shapes=("2x3",))).table.note
    assert all(name in note for name in missing)
    assert any("Triton" in name for name in missing) == bool(why_no_triton())


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
