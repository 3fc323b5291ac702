"""`catreparam measure` and `catreparam tune` as a user runs them."""

import json

import pytest

from catreparam.cli import main


def test_measure_prints_a_table_per_objective_and_writes_its_files(tmp_path, capsys):
    words = ["measure", "--objectives", "quadratic", "power", "--estimators", "straight_through", "redge:t1=0.7"]
    assert main([*words, "--num-draws", "50", "--num-classes", "3", "--folder", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "## quadratic" in printed
    assert "## power" in printed
    assert printed.count("redge:t1=0.7") >= 2
    rows = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert [row["objective"] for row in rows] == ["quadratic"] * 2 + ["power"] * 2
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_measure_takes_an_objective_of_the_users_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_losses.py").write_text("def first(x):\n    return x[..., 0].sum(-1)\n")
    monkeypatch.chdir(tmp_path)
    words = ["measure", "--objectives", "my_losses:first", "--estimators", "reinmax", "--num-draws", "20"]
    assert main(words) == 0
    assert "my_losses:first" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["measure", "--objectives", "quadratc"], "unknown objective 'quadratc'"),
        (["measure", "--objectives", "no_such_module:f"], "cannot import 'no_such_module'"),
        (["measure", "--objectives", "json:nothing"], "json has no function called 'nothing'"),
        (["measure", "--estimators", "regde"], "Did you mean 'redge'"),
        (["tune", "--criterion", "speed"], "unknown criterion 'speed'"),
        (["tune", "--estimators", "redge:t1=2"], "t1 must be"),
    ],
)
def test_mistakes_give_one_line(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_tune_prints_the_best_setting_as_code_that_can_be_pasted(tmp_path, capsys):
    words = ["tune", "--objective", "quadratic", "--estimators", "straight_through", "lambda_reinmax"]
    assert main([*words, "--num-draws", "50", "--num-variables", "2", "--folder", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "Recommended by bias: " in printed
    assert "(logits" in printed
    assert "lambda_reinmax:weight=0.25" in printed
    assert (tmp_path / "table.csv").exists()


@pytest.mark.parametrize("command", [["tune", "--objective"], ["measure", "--objectives"]])
def test_an_objective_that_fails_is_one_line_with_the_x_it_saw(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "their_losses.py").write_text(
        "import torch\n\n\ndef budget(x):\n    return (x @ torch.ones(7)).sum(-1)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main([*command, "their_losses:budget"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "objective 'their_losses:budget' failed on x of shape" in said
    assert "Set --num-variables" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", ["measure", "tune"])
def test_more_logits_than_a_machine_holds_are_refused_before_any_is_made(command, capsys):
    assert main([command, "--num-variables", str(2**31)]) != 0
    assert "at most 1,073,741,824" in capsys.readouterr().err
