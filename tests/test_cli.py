"""The command line: what it prints, its exit codes, and one clear line for every mistake."""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import itertools
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from catreparam import cli
from catreparam.estimators import ESTIMATORS
from catreparam.estimators.facts import facts_of
from catreparam.experiments import STUDIES

TINY = (  # noqa: SIM905 (reads as it is typed)
    "run vae --estimators straight_through redge --dataset digits8 --num-latents 3 --num-classes 2 "
    "--hidden-sizes 8 --batch-size 400 --num-epochs 2 --num-evaluation-samples 1"
).split()


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CATREPARAM_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("CATREPARAM_TRACEBACK", raising=False)


def fails(capsys, words, code=2):
    """Runs words that must fail; returns the one line on standard error."""
    assert cli.main(words.split()) == code
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    return lines[0]


def test_help_teaches_with_examples(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in ("run", "data", "report", "list", "cite"))
    assert text.count("  catreparam run vae") >= 4


def test_the_help_of_an_experiment_explains_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "vae", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(
        option in text
        for option in ("--estimators", "--num-latents", "--binarisation", "--preset quick | demo | paper")
    )


def test_list_names_every_estimator_data_set_and_experiment(capsys):
    assert cli.main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\S", text, re.MULTILINE) for name in [*ESTIMATORS, "mnist5k", "vae"])


def lines_at_80_columns(capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(words.split()) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if len(line) > 80] == []
    return text


@pytest.mark.parametrize("words", ["", "run", "sweep", *STUDIES])
def test_help_fits_80_columns(capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.suppress(SystemExit):
        cli.main([*words.split(), "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: catreparam")
    assert [line for line in text.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("words", STUDIES)
def test_every_option_has_a_text(words):
    config = importlib.import_module(STUDIES[words]).Config
    said = {}
    for cls in reversed(config.__mro__[:-1]):
        body = ast.parse(inspect.getsource(cls)).body[0].body
        for field, after in itertools.pairwise([*body, ast.Pass()]):
            if isinstance(field, ast.AnnAssign):
                said[field.target.id] = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    made = config()
    own = [field.name for field in dataclasses.fields(config)]
    assert [name for name in own if not said[name] and not dataclasses.is_dataclass(getattr(made, name))] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tune --learning-rate=-1 --criterion training", "learning_rate must be greater than 0"),
        ("run vae --seed x", "seeds"),
        ("run sudoku --seeds x", "seed"),
        ("guide --estimators regde", "Did you mean 'redge'"),
        ("measure --estimator regde", "Did you mean 'redge'"),
    ],
)
def test_shared_options_have_one_meaning_by_all_their_names(capsys, words, message):
    try:
        code = cli.main(words.split())
    except SystemExit as stop:  # tyro's own errors
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert message in said
    assert "nrecognized" not in said


def test_list_fits_80_columns_and_shows_hyperparameters(capsys, monkeypatch):
    text = lines_at_80_columns(capsys, monkeypatch, "list")
    assert "  redge  num_steps=4, t1=0.5, grid=alpha, solver=euler, hard=True\n" in text


@pytest.mark.parametrize("name", ESTIMATORS)
def test_list_of_an_estimator_says_all_about_it(capsys, monkeypatch, name):
    text = lines_at_80_columns(capsys, monkeypatch, f"list {name}")
    assert text.startswith(f"catreparam.{name}(")
    for part in ("\nBias: ", "\nCost: ", "\nLaw of the hard sample: ", f"\nPage: docs/estimators/{name}.md"):
        assert part in text
    facts = facts_of(name)
    for key in facts.hyperparameters:
        row = re.search(rf"^{key} +(\S+) +(.+)$", text, re.MULTILINE)
        default = inspect.signature(facts.function).parameters[key].default
        assert row is not None, key
        assert row[1] == str(default), key
        assert (row[2] == "-") == (key not in facts.search), key
    assert ">>>" not in text


@pytest.mark.parametrize("name", ["mnist5k", "vae", "polynomial"])
def test_list_of_a_data_set_or_experiment_says_how_to_use_it(capsys, monkeypatch, name):
    text = lines_at_80_columns(capsys, monkeypatch, f"list {name}")
    assert f": catreparam {'data' if name == 'mnist5k' else 'run'} {name}\n" in text


def test_list_of_something_else_names_the_nearest(capsys):
    assert "Did you mean 'redge'" in fails(capsys, "list rdge")


def test_cite_prints_bibtex(capsys):
    assert cli.main(["cite"]) == 0
    assert "2601.00781" in capsys.readouterr().out


def test_data_list_says_where_the_cache_is(capsys, tmp_path):
    assert cli.main(["data", "list"]) == 0
    assert str(tmp_path / "cache") in capsys.readouterr().out


def test_data_of_a_bundled_set_says_how_many_images_it_has(capsys):
    assert cli.main(["data", "digits8"]) == 0
    assert "1259 training, 179 validation and 359 test images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("rnu vae", "Did you mean 'run'"),
        ("run vea", "Did you mean 'vae'"),
        ("run vae --preset dmo", "Did you mean 'demo'"),
        ("run vae --preset", "unknown preset ''"),
        ("run vae --estimators redg", "Did you mean 'redge'"),
        ("run vae --estimators redge:num_stpes=3", "did you mean num_steps?"),
        ("run vae --dataset mnst", "Did you mean 'mnist'"),
        ("run vae --dataset mnist", "catreparam data mnist"),
        ("run vae --binarisation grayscale", "Did you mean 'greyscale'"),
        ("run vae --num-epochs 0", "at least 1, got 0"),
        ("data mnst", "Did you mean 'mnist'"),
        ("report nowhere", "no config.json"),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy_and_exit_code_2(capsys, words, message):
    assert message in fails(capsys, words)


def test_an_option_that_does_not_exist_exits_with_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "vae", "--epoch", "3"])
    assert stop.value.code == 2
    assert "num-epochs" in capsys.readouterr().err


def test_a_missing_package_names_the_extra_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert "pip install '.[experiments]'" in fails(capsys, "run vae")


HUGE = "1000000000000000"  # beyond the addresses of a process


@pytest.mark.parametrize(
    "words",
    [
        f"run polynomial --num-variables {HUGE}",
        f"run polynomial --num-variables {HUGE} --jobs 2",
        f"run polynomial --batch-size {HUGE}",
        f"run law --num-classes {HUGE}",
        f"run vae --iwae-samples {HUGE} --num-epochs 1 --estimators reinmax",
        f"run vae --num-samples {HUGE} --num-epochs 1 --estimators reinmax",
        f"run sudoku --free-samples {HUGE} --free-steps 1 --num-puzzles 2 --levels easy --priors none",
        f"guide --num-images {HUGE}",
    ],
)
def test_what_no_machine_can_hold_is_one_line(words, capsys):
    assert "out of memory" in fails(capsys, f"{words} --folder run")


def test_another_runtime_error_is_shown_as_it_is(monkeypatch):
    def run(config):
        raise RuntimeError("a bug")

    monkeypatch.setattr("catreparam.experiments.law.study.run", run)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["run", "law"])


def test_a_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("CATREPARAM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown command"):
        cli.main(["rnu"])


def test_a_run_prints_its_table_and_where_the_page_is_then_the_same_again(capsys, tmp_path):
    assert cli.main([*TINY, "--folder", "run"]) == 0
    first = capsys.readouterr()
    assert "| straight_through |" in first.out
    assert "run/report.html" in first.out
    assert "redge: 2/2 train" in first.err
    assert cli.main([*TINY, "--folder", "run"]) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert "2/2" not in again.err
    assert cli.main(["report", "run"]) == 0
    assert capsys.readouterr().out == first.out
    assert "another --folder" in fails(capsys, " ".join([*TINY, "--folder", "run", "--lr", "0.1"]))


def test_options_apply_on_top_of_a_preset(capsys):
    assert cli.main([*TINY, "--preset", "demo", "--folder", "elsewhere"]) == 0
    assert "elsewhere/report.html" in capsys.readouterr().out


def test_a_registered_study_is_run_with_its_own_config(capsys, monkeypatch, tmp_path):
    (tmp_path / "toy_experiment.py").write_text(
        '"""A toy."""\n'
        "from dataclasses import dataclass\n"
        "from catreparam.report import Column, Report, Table\n"
        "@dataclass(frozen=True)\n"
        "class Config:\n    size: int = 1\n"
        "def run(config):\n    return Report('toy', '', Table([Column('n', 'size')], [{'n': config.size}]))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.STUDIES, "run toy", "toy_experiment")
    assert cli.main(["run", "toy", "--size", "7"]) == 0
    assert "|    7 |" in capsys.readouterr().out


def test_ctrl_c_in_a_real_process_exits_130_and_the_same_command_resumes(tmp_path):
    command = [sys.executable, "-m", "catreparam.cli", *TINY, "--folder", "run", "--num-epochs", "4000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # a test run started in the background ignores Ctrl-C, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 4000 epochs" in out
    assert err.strip().splitlines()[-1] == "catreparam: interrupted; the same command resumes in run"
    assert (tmp_path / "run/report.html").exists()
