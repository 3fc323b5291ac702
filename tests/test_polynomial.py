"""Polynomial programming: the closed form, the run folder, and what is known of the problem."""

import itertools
import json

import pytest
import torch

from catreparam.cli import main
from catreparam.objectives.polynomial import Polynomial

TINY = ["run", "polynomial", "--estimators", "reinmax", "straight_through", "--powers", "2.0", "--num-variables", "4"]
TINY += ["--batch-size", "8", "--num-steps", "20", "--seeds", "0", "1"]


@pytest.mark.parametrize(
    ("power", "optimum", "uniform"), [(1.5, 0.30187, 0.35488), (2, 0.2025, 0.2525), (3, 0.09113, 0.12875)]
)
def test_known_values_of_the_paper(power, optimum, uniform):
    objective = Polynomial(float(power))
    assert objective.optimum == pytest.approx(optimum, abs=1e-5)
    assert objective.expected(torch.zeros(128, 2)).item() == pytest.approx(uniform, abs=1e-5)


@pytest.mark.parametrize("extension", ["power", "linear"])
def test_expected_loss_equals_enumeration(extension):
    objective = Polynomial(1.5, extension=extension)
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs, eye = torch.softmax(logits, -1), torch.eye(2, dtype=torch.float64)
    total = sum(
        probs[range(3), list(index)].prod() * objective(eye[list(index)])
        for index in itertools.product(range(2), repeat=3)
    )
    assert objective.expected(logits).item() == pytest.approx(total.item())


def test_both_extensions_agree_at_the_vertices_and_differ_between():
    x = torch.eye(2)[torch.tensor([0, 1, 1])]
    curved, linear = Polynomial(3.0), Polynomial(3.0, extension="linear")
    assert torch.allclose(curved(x), linear(x))
    assert not torch.allclose(curved(torch.full((3, 2), 0.5)), linear(torch.full((3, 2), 0.5)))


def test_a_run_writes_its_folder_and_resumes_with_the_same_numbers(tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*TINY, "--folder", str(whole)]) == 0
    assert "## p = 2, optimum 0.20250" in capsys.readouterr().out
    assert main([*TINY, "--folder", str(cut)]) == 0
    lines = (cut / "metrics.jsonl").read_text().splitlines(keepends=True)
    (cut / "metrics.jsonl").write_text("".join(lines[:2]) + lines[2][:40])  # killed while writing the third
    assert main([*TINY, "--folder", str(cut)]) == 0
    records = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (whole, cut)]
    for first, second in zip(*records, strict=True):
        assert first["gaps"] == second["gaps"]
    assert main(["report", str(cut)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--powers", "-1"], "power must be greater than 0"),
        (["--extension", "cubic"], "unknown extension 'cubic'"),
        (["--target", "1.5"], "target must be"),
        (["--estimators", "redgee"], "Did you mean 'redge'"),
    ],
)
def test_mistakes_give_one_line(words, message, tmp_path, capsys):
    assert main(["run", "polynomial", *words, "--folder", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
