"""The bias study: its estimate of a distance, known laws, and its run folder."""

import json

import pytest
import torch

from catreparam.cli import main
from catreparam.experiments.law.study import Config, crossfitted_length, measure_law

SMALL = Config(num_classes=10, num_draws=20_000)


def tv(estimator, t1, num_steps, config=SMALL, **keywords):
    record = measure_law(config, seed=0, estimator=estimator, t1=t1, num_steps=num_steps, **keywords)
    return record["total_variation"], record["total_variation_error"]


def noisy_chunks(means, seed=0, scale=0.1):
    noise = torch.randn(20, len(means), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return means + scale * noise


def test_the_length_of_clear_differences_is_their_sum():
    length, error = crossfitted_length(noisy_chunks(torch.tensor([1.0, -2.0, 0.5]).double()))
    assert abs(length - 3.5) < 4 * error + 1e-9
    assert 0 < error < 0.1


@pytest.mark.statistical
def test_the_length_of_nothing_averages_to_nothing():
    """400 independent estimates; fails by chance with probability 6e-5 (4 standard errors)."""
    values = [crossfitted_length(noisy_chunks(torch.zeros(30).double(), seed))[0] for seed in range(400)]
    mean = torch.tensor(values)
    assert abs(mean.mean()) < 4 * mean.std() / 20
    plain = [noisy_chunks(torch.zeros(30).double(), seed).mean(0).abs().sum() for seed in range(20)]
    assert torch.stack(plain).mean() > 20 * abs(mean.mean())  # the plain estimate does not


@pytest.mark.statistical
@pytest.mark.parametrize("t1", [0.1, 0.5])
def test_the_law_of_exact_redge_is_exact(t1):
    """Fails by chance with probability 6e-5 for each t1 (4 standard errors)."""
    value, error = tv("exact_redge", t1, 2)
    assert abs(value) < 4 * error


def test_the_law_of_redge_at_two_steps_and_ten_classes_is_as_known():
    """.26 at t1 = .1, .02 at t1 = .3, not visible at t1 = .9; by logits, so within a third."""
    config = Config(num_classes=10, num_draws=20_000)
    means = {
        t1: sum(measure_law(config, seed, "redge", t1, 2)["total_variation"] for seed in range(4)) / 4
        for t1 in (0.1, 0.3, 0.9)
    }
    assert 0.17 < means[0.1] < 0.35
    assert 0.01 < means[0.3] < 0.04
    assert abs(means[0.9]) < 0.002


def test_reindge_has_the_law_of_redge():
    (first, first_error), (second, second_error) = tv("redge", 0.1, 2), tv("reindge", 0.1, 2)
    assert abs(first - second) < 4 * (first_error**2 + second_error**2) ** 0.5
    assert first > 10 * first_error


def test_more_steps_bring_the_law_nearer():
    values = [tv("redge", 0.1, num_steps)[0] for num_steps in (1, 3, 8)]
    assert values[0] > 2 * values[1] > 4 * values[2]


TINY = ["run", "law", "--estimators", "redge", "exact_redge", "--num-steps", "1", "3", "--t1", "0.2", "0.8"]
TINY += ["--num-classes", "5", "--num-draws", "400", "--seeds", "0", "1"]


def test_a_run_writes_one_record_a_cell_and_resumes_with_the_same_numbers(tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*TINY, "--folder", str(whole)]) == 0
    assert "## Wasserstein distance" in capsys.readouterr().out
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    assert len({tuple(list(json.loads(line).values())[:4]) for line in lines}) == len(lines) == 16
    assert main([*TINY, "--folder", str(cut)]) == 0
    (cut / "metrics.jsonl").write_text("\n".join(lines[:5]) + "\n")
    assert main([*TINY, "--folder", str(cut)]) == 0
    assert (cut / "table.csv").read_text() == (whole / "table.csv").read_text()
    assert main(["report", str(cut)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-draws", "50"], "num_draws must be a multiple of 20, got 50"),
        (["--t1", "1.5"], "t1 must be"),
        (["--estimators", "reinmax"], "num_steps is not a hyperparameter of reinmax"),
        (["--estimators", "redge:t1=0.5"], "t1 is set by the study"),
    ],
)
def test_mistakes_give_one_line(words, message, tmp_path, capsys):
    assert main(["run", "law", *words, "--folder", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
