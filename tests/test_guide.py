"""`catreparam guide` on digits: rewards, methods, budget, end to end, resuming, and what goes wrong."""

import functools
import json

import pytest
import safetensors.torch
import torch

from catreparam.cli import main
from catreparam.experiments.guide import study as guide
from catreparam.experiments.guide.methods import CANDIDATES, OTHER_METHODS, Budget, check_methods
from catreparam.experiments.guide.rewards import RewardSpec
from catreparam.guidance import on_embeddings
from catreparam.models.classifier import frechet_distance
from catreparam.models.digits_models import load_digits_models
from catreparam.models.image_scores import class_score, ink_score, labels_of, symmetry_score

TINY = guide.Config(
    reward="class:all",
    estimator=("straight_through",),
    rivals=("best_of_n",),
    kl_weights=(1.0, 4.0),
    num_images=4,
    num_rounds=3,
    num_steps=2,
)


def configured(tmp_path, **changes):
    return guide.Config(**{**vars(TINY), "folder": tmp_path / "run", **changes})


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_method_runs_within_the_budget(tmp_path):
    config = configured(
        tmp_path, rivals=tuple(OTHER_METHODS), estimator=("exact_redge", "gumbel_softmax"), kl_weights=(1.0,)
    )
    report = guide.run(config)
    records = metrics(tmp_path / "run")
    assert len(records) == len(config.keys())
    assert all(record["evaluations"] <= config.budget.evaluations for record in records)
    spent = {record["method"]: record["evaluations"] for record in records}
    assert spent["exact_redge"] == spent["gumbel_softmax"] == spent["aps"] == config.budget.evaluations
    assert {row["method"] for row in report.table.rows} == set(config.methods)
    assert {"report.html", "table.md", "table.csv"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_same_command_generates_nothing_twice_and_report_can_be_rebuilt(tmp_path):
    config = configured(tmp_path)
    first = guide.run(config)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = guide.run(config)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert again.table.rows == first.table.rows == guide.report_folder(tmp_path / "run").table.rows


def test_killed_generation_goes_on_to_the_same_tokens_and_pictures(tmp_path, monkeypatch):
    config = configured(tmp_path, rivals=(), kl_weights=(1.0,))
    whole = guide.generate_cell(configured(tmp_path / "whole"), "straight_through", 4.0, 0)
    calls = []

    def dying(*arguments, **settings):
        reward = on_embeddings(*arguments, **settings)

        @functools.wraps(reward)
        def call(x):
            calls.append(1)
            if len(calls) == 4:  # in the second round
                raise KeyboardInterrupt
            return reward(x)

        return call

    monkeypatch.setattr(guide, "on_embeddings", dying)
    with pytest.raises(KeyboardInterrupt):
        guide.generate_cell(configured(tmp_path), "straight_through", 4.0, 0)
    monkeypatch.setattr(guide, "on_embeddings", on_embeddings)
    resumed = guide.generate_cell(configured(tmp_path), "straight_through", 4.0, 0)
    assert resumed["tokens"] == whole["tokens"]
    assert resumed["frames"] == whole["frames"]
    assert len(whole["frames"]) == config.num_rounds
    assert not list((tmp_path / "run" / "generations").glob("*.state"))


def test_guidance_raises_the_reward_above_the_priors(tmp_path):
    config = configured(
        tmp_path, reward="ink:0.2", rivals=("unguided",), kl_weights=(0.1,), num_images=16, num_rounds=4, num_steps=5
    )
    guide.run(config)
    rewards = {r["method"]: sum(r["reward"]) / len(r["reward"]) for r in metrics(tmp_path / "run")}
    assert rewards["straight_through"] > rewards["unguided"] / 2  # both are negative: less than half as far off


def test_command_line_prints_the_table(tmp_path, capsys):
    words = ["--reward", "symmetry", "--estimator", "reinmax", "--rivals", "unguided", "--kl-weights", "1"]
    words += ["--num-images", "2", "--num-rounds", "2", "--num-steps", "1", "--folder", str(tmp_path / "run")]
    assert main(["guide", *words]) == 0
    assert "reinmax" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reward", "beauty"], "cannot read the reward 'beauty'"),
        (["--reward", "class:12"], "the classes are 0 to 9"),
        (["--reward", "class:1.5"], "a class is a whole number"),
        (["--reward", "ink:2"], "target must be at least 0 and at most 1"),
        (["--estimator", "redg"], "Did you mean 'redge'"),
        (["--estimator", "redge:t1=9"], "t1"),
        (["--rivals", "best"], "unknown rival 'best'"),
        (["--label", "11"], "label must lie in [0, 9]"),
        (["--kl-weights", "-1"], "kl_weights must be at least 0"),
        (["--weights", "nowhere.safetensors"], "there is no checkpoint nowhere.safetensors"),
        (["--num-rounds", "0"], "num_rounds must be at least 1"),
        (["dogs"], "unknown word after guide 'dogs'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words, message):
    words = [*words, "--folder", str(tmp_path / "run")] if words != ["dogs"] else words
    assert main(["guide", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_reward_that_is_not_finite_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        guide, "on_embeddings", lambda *a, **k: lambda x: x.sum((1, 2)) * torch.tensor([1.0, float("nan")])
    )
    words = ["--estimator", "reinmax", "--rivals", "unguided", "--num-images", "2", "--num-rounds", "2"]
    assert main(["guide", *words, "--num-steps", "1", "--folder", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "the reward returned nan" in error
    assert "Traceback" not in error


def test_damaged_weights_are_named(tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b"0123456789")
    with pytest.raises(ValueError, match="is truncated or no safetensors file"):
        guide.run(configured(tmp_path, weights=str(path)))


@pytest.mark.parametrize(("rounds", "steps"), [(1, 1), (7, 10), (20, 3)])
def test_candidates_never_exceed_the_budget(rounds, steps):
    budget = Budget(rounds, steps)
    for method in CANDIDATES:
        n = budget.candidates(method)
        cost = {
            "best_of_n": n * (rounds + 1),
            "svdd": 1 + n * (2 * rounds - 1),
            "svdd_direct": rounds + n * rounds,
            "smc": 2 * n * rounds,
        }
        assert n >= 1
        assert cost[method] <= budget.evaluations or n == 1


def test_methods_are_checked():
    assert check_methods(("svdd", " redge:t1=0.5 ")) == ("svdd", "redge:t1=0.5")
    with pytest.raises(ValueError, match="listed twice"):
        check_methods(("smc", "smc"))
    with pytest.raises(ValueError, match="name at least one"):
        check_methods(())


def test_class_reward_follows_its_targets_through_repeated_batches():
    def classifier(images):
        return images.flatten(1)[:, :3]

    images = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([2, 0, 1])  # two copies of every sequence, side by side
    expected = classifier(images)[torch.arange(6), targets.repeat_interleave(2)]
    assert torch.equal(class_score(classifier, targets, kind="logit")(images), expected)
    with pytest.raises(ValueError, match="3 labels do not fit a batch of 4"):
        labels_of(targets, 4, images.device)


def test_closed_form_scores():
    images = torch.zeros(2, 3, 4, 4)
    images[1, :, :, 0] = 1.0
    assert ink_score(0.25)(images).tolist() == [-625.0, 0.0]
    assert symmetry_score(images).tolist() == [0.0, -50.0]


def test_reward_spec_targets():
    assert RewardSpec.parse("class:all").targets(12).tolist() == [*range(10), 0, 1]
    assert RewardSpec.parse("logit:7").targets(2).tolist() == [7, 7]
    assert RewardSpec.parse("symmetry").targets(2) is None


def test_frechet_distance_of_normal_laws_has_its_closed_form():
    a, b = torch.diag(torch.tensor([4.0, 1.0])), torch.diag(torch.tensor([1.0, 9.0]))
    shift = torch.tensor([1.0, 2.0])
    assert frechet_distance(torch.zeros(2), a, shift, b) == pytest.approx(5 + (2 - 1) ** 2 + (1 - 3) ** 2)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    turned = frechet_distance(torch.zeros(2), turn @ a @ turn.T, turn @ shift, turn @ b @ turn.T)
    assert turned == pytest.approx(10, abs=1e-5)


def test_shipped_networks_are_good_enough_to_guide_with():
    from catreparam.data import load_dataset
    from catreparam.experiments.guide.training import accuracy, psnr

    models, data = load_digits_models(), load_dataset("mnist5k")
    images, labels = data.test[::5], data.test_labels[::5]
    assert psnr(models.vq, images) > 20
    assert accuracy(models.reward, images, labels) > 0.95
    assert accuracy(models.heldout, images, labels) > 0.95
    assert all(not p.requires_grad for model in models.modules().values() for p in model.parameters())


@pytest.mark.parametrize("content", [b"", b"no frames", safetensors.torch.save({"others": torch.zeros(1)}), None])
def test_damaged_frames_are_named_with_the_remedy(tmp_path, content):
    file = tmp_path / "redge-1-0.frames"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"redge-1-0.frames is damaged .*; delete it and redge-1-0.state"):
        guide.Frames(file).read()
