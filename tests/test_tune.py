"""What `tune` recommends: within the noise of the best, the same for other seeds, as code that runs."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import catreparam
from catreparam import ESTIMATORS, GradientStats, make_estimator, tune
from catreparam.cli import main
from catreparam.gradients import SEARCH_SPACE, TuneResult, TuneRow
from methods import seeded

LOGITS = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
STATS = GradientStats(100, 1, *[0.1] * 13)


def objective(x):
    """[*batch, 4, 3] -> [*batch]"""
    return (x[..., 0].sum(-1) - 1.2) ** 2


def row(name, score, error=0.1, evaluations=1, order=0, **hyperparameters):
    made = make_estimator(name, **hyperparameters)
    return TuneRow(made, STATS, evaluations, 0.0, 0.0, True, score, score_stderr=error, order=order)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_recommendation_is_code_that_runs(name):
    result = TuneResult((row(name, 1.0),), "bias")
    logits = LOGITS.clone().requires_grad_()
    value = eval(result.code, {**vars(catreparam), "objective": objective, "logits": logits})
    loss = value if catreparam.takes_objective(ESTIMATORS[name]) else objective(value)
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_hyperparameters_are_part_of_the_code():
    assert TuneResult((row("redge", 1.0, t1=0.7, grid="lambda"),), "mse").code == "redge(logits, t1=0.7, grid='lambda')"
    made = row("rebar", 1.0, temperature=0.3)
    wanted = "expectation(objective, logits, estimator=make_estimator('rebar', temperature=0.3), num_samples=1)"
    assert TuneResult((made,), "mse").code == wanted


def test_level_are_those_that_the_errors_cannot_tell_from_the_best():
    rows = (
        row("reinmax", 1.0, order=3),
        row("rloo", 1.2, evaluations=2, order=0),
        row("redge", 1.42, order=2),
        row("reindge", 1.43, order=1),
        row("gumbel_rao", 1.6, order=4, error=0.19),
        row("straight_through", 1.5, order=5),
    )
    result = TuneResult(rows, "bias")
    assert [r.estimator.name for r in result.level] == ["reinmax", "rloo", "redge", "gumbel_rao"]
    assert result.best.name == "reinmax"
    assert result.recommended.name == "redge"  # one evaluation, and the first of these that was tried


@pytest.mark.parametrize("criterion", ["bias", "mse", "training"])
def test_seeds_agree_on_what_is_on_a_level_with_the_best(criterion):
    names = ["straight_through", "reinmax", "lambda_reinmax", "exact_redge"]
    settings = {"num_draws": 300, "training_steps": 20, "criterion": criterion}
    found = [tune(objective, LOGITS, estimators=names, generator=seeded(seed), **settings) for seed in range(3)]
    level = [{row.show() for row in result.level} for result in found]
    assert set.intersection(*level)
    if criterion != "training":  # 16 runs of 20 steps are few
        assert len({repr(result.recommended) for result in found}) == 1
    for result in found:
        assert result.recommended in [r.estimator for r in result.level]
        assert result.best == result.rows[0].estimator
        assert all(r.score_stderr > 0 for r in result.rows)


def test_a_result_prints_as_a_table_with_the_recommendation():
    result = tune(objective, LOGITS, num_draws=40, generator=seeded())
    lines = str(result).splitlines()
    level = len(result.level)
    assert lines[0].startswith(f"{len(result.rows)} settings by bias; {level} (*) cannot be told")
    assert lines[1] == f"Recommended, the cheapest of these: {result.code}"
    assert sum(line.startswith("* ") for line in lines) == level
    assert lines[3].startswith(f"* {result.rows[0].show()} ")
    assert max(map(len, lines[2:])) <= 120


WAYS = {
    "logits.npy": lambda path: np.save(path, LOGITS.numpy()),
    "logits.pt": lambda path: torch.save({"logits": LOGITS, "other": LOGITS}, path),
    "logits.safetensors": lambda path: save_file({"head": LOGITS}, path),
    "my_logits.py": lambda path: path.write_text("import torch\ndef f(): return torch.zeros(2, 4, 3)\n"),
}


@pytest.mark.parametrize("name", WAYS)
def test_logits_come_from_a_file_or_a_function(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    WAYS[name](tmp_path / name)
    given = "my_logits:f" if name.endswith(".py") else name
    (tmp_path / "my_loss.py").write_text("def f(x):\n    assert x.shape[-2:] == (4, 3)\n    return x[..., 0].sum(-1)\n")
    words = ["tune", "--objective", "my_loss:f", "--estimators", "straight_through", "--num-draws", "20"]
    assert main([*words, "--logits", given]) == 0
    assert "Recommended by bias: straight_through(logits)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("no.npy", "cannot be read"),
        ("broken.pt", "cannot be read"),
        ("broken.safetensors", "cannot be read"),
        ("integers.npy", "need a float tensor [..., num_variables, num_classes], got (2, 3)"),
        ("flat.npy", "got (3,)"),
        ("many.safetensors", "several tensors and none called 'logits': a, b"),
        ("logits.csv", "give a .npy, .safetensors, .pt file or module:function"),
        ("no_such_module:f", "cannot import 'no_such_module'"),
    ],
)
def test_bad_logits_are_one_line(given, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("integers.npy", np.zeros((2, 3), dtype=int))
    np.save("flat.npy", np.zeros(3))
    save_file({"a": LOGITS, "b": LOGITS.clone()}, "many.safetensors")
    for name in ("broken.pt", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no tensors")
    assert main(["tune", "--logits", given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_with_several_samples_the_methods_that_need_them_are_tried_and_the_code_asks_for_as_many():
    settings = {"num_draws": 200, "generator": seeded()}
    result = tune(objective, LOGITS[:2], num_samples=4, search_space={}, **settings)
    names = {row.estimator.name for row in result.rows}
    assert names == {*SEARCH_SPACE, "rloo", "reinmax_rloo"}
    assert {row.stats.num_samples for row in result.rows} == {4}
    assert result.code.endswith("num_samples=4)")
    logits = LOGITS[:2].clone().requires_grad_()
    eval(result.code, {**vars(catreparam), "objective": objective, "logits": logits}).sum().backward()
    assert logits.grad.isfinite().all()
    alone = tune(objective, LOGITS[:2], search_space={}, **settings)
    assert {row.estimator.name for row in alone.rows} == set(SEARCH_SPACE)


@pytest.mark.parametrize("command", ["tune", "measure"])
def test_commands_take_logits_from_a_file_and_samples(command, tmp_path, capsys):
    save_file({"logits": LOGITS[:2].contiguous()}, tmp_path / "logits.safetensors")
    words = [command, "--logits", str(tmp_path / "logits.safetensors"), "--num-draws", "40", "--num-samples", "2"]
    words += ["--estimators", "reinmax", "--objective" + "s" * (command == "measure"), "quadratic"]
    main([*words, "--folder", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert "reinmax" in out
    rows = [json.loads(line) for line in (tmp_path / "run" / "table.jsonl").read_text().splitlines()]
    assert {row["evaluations"] for row in rows} == {2}
    if command == "measure":
        assert "2 variables with 3 classes" in out


def test_the_command_tries_several_samples_methods_when_as_many_are_asked_for(tmp_path):
    words = ["tune", "--num-variables", "2", "--num-classes", "2", "--num-draws", "20", "--num-samples", "2"]
    main([*words, "--folder", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert {"reinmax_rloo", "rloo", "reinmax"} <= {row["estimator"].partition(":")[0] for row in rows}
