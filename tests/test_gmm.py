"""The mixture study: closed forms against definitions, what is known of estimators on it, and its run folder."""

import json

import pytest
import torch

from catreparam.categorical import kl_to_uniform
from catreparam.cli import main
from catreparam.objectives.gmm import MixturePosterior

TINY = [
    "run",
    "gmm",
    "--estimators",
    "reinmax",
    "straight_through",
    "--num-components",
    "4",
    "--num-observations",
    "30",
]
TINY += ["--num-steps", "20", "--seeds", "0", "1", "--lr", "0.1"]


def tiny_mixture(**changes):
    return MixturePosterior(**{"num_components": 4, "num_observations": 30, "spread": 4.0, **changes})


def test_values_at_the_vertices_are_the_gaussian_log_likelihoods():
    mixture = tiny_mixture()
    normal = torch.distributions.Normal(mixture.means, mixture.noise)
    expected = normal.log_prob(mixture.observations.unsqueeze(1)).sum(-1)
    torch.testing.assert_close(mixture.log_likelihoods(), expected)
    for k, x in enumerate(torch.eye(4, dtype=torch.float64)):
        torch.testing.assert_close(mixture(x.expand(30, 4)), -expected[:, k])


def test_the_gap_is_the_negative_elbo_above_the_negative_log_evidence():
    mixture = tiny_mixture()
    logits = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs = torch.softmax(logits, -1)
    negative_elbo = -(probs * mixture.log_likelihoods()).sum(-1) + kl_to_uniform(logits)
    torch.testing.assert_close(mixture.gap(logits), negative_elbo - mixture.negative_log_evidence())


def test_gap_and_total_variation_vanish_at_the_exact_posterior_only():
    mixture = tiny_mixture()
    exact = mixture.posterior().log()
    assert mixture.gap(exact).abs().max() < 1e-12
    assert mixture.total_variation(exact).max() < 1e-12
    assert mixture.gap(torch.zeros(30, 4)).min() > 0.05
    assert mixture.total_variation(torch.zeros(30, 4)).max() <= 1.0


def test_both_extensions_agree_at_the_vertices_and_differ_between():
    curved, linear = tiny_mixture(), tiny_mixture(extension="linear")
    vertex, middle = torch.eye(4, dtype=torch.float64)[2].expand(30, 4), torch.full((30, 4), 0.25, dtype=torch.float64)
    torch.testing.assert_close(curved(vertex), linear(vertex))
    assert (curved(middle) < linear(middle)).all()  # the formula is convex in the mean


def test_seeds_draw_different_mixtures_and_the_same_one_again():
    first, again, other = tiny_mixture(), tiny_mixture(), tiny_mixture(seed=1)
    assert torch.equal(first.observations, again.observations)
    assert not torch.equal(first.observations, other.observations)


def read(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    records = [{k: v for k, v in record.items() if k != "milliseconds"} for record in records]
    return sorted(records, key=lambda record: (record["seed"], record["estimator"]))


def test_straight_through_finds_the_posterior_on_the_linear_extension(tmp_path):
    words = ["--extension", "linear", "--num-steps", "150", "--lr", "0.2", "--seeds", "0", "--folder", str(tmp_path)]
    assert main([*TINY, *words]) == 0
    for record in read(tmp_path):
        assert record["gaps"][-1] < record["gaps"][0] / 100
        assert record["total_variation"] < 0.02


def test_a_run_resumes_with_the_same_numbers_alone_or_side_by_side(tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*TINY, "--folder", str(whole)]) == 0
    assert main([*TINY, "--folder", str(cut)]) == 0
    lines = (cut / "metrics.jsonl").read_text().splitlines(keepends=True)
    (cut / "metrics.jsonl").write_text("".join(lines[:1]) + lines[1][:40])  # killed while writing the second
    assert main([*TINY, "--folder", str(cut), "--jobs", "2"]) == 0
    assert read(cut) == read(whole)
    assert len(read(cut)) == 4
    capsys.readouterr()
    assert main(["report", str(cut)]) == 0
    assert "reinmax" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--noise", "0"], "noise must be greater than 0"),
        (["--extension", "cubic"], "unknown extension 'cubic'"),
        (["--seeds", "1", "1"], "seeds must be"),
        (["--estimators", "redgee"], "Did you mean 'redge'"),
    ],
)
def test_mistakes_give_one_line(words, message, tmp_path, capsys):
    assert main(["run", "gmm", *words, "--folder", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
