"""Odd terminals, odd folders, damaged files: one clear error each, nothing lost, nothing silently wrong."""

import json
import os
import random
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from catreparam.cli import main
from catreparam.experiments.runs.configs import check_seeds
from catreparam.experiments.runs.estimator_specs import normalise_specs
from catreparam.experiments.runs.folder import RunFolder, RunFolderError, WriteFailed, open_run_folder
from catreparam.experiments.runs.records import checked_json
from catreparam.experiments.sweep.plan import LINES
from catreparam.report import writer

DAMAGE = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "damage.py"))
KINDS = ("gmm", "guide", "law", "polynomial", "sudoku", "sudoku-prior", "sweep", "vae")
FACTS = {"machine": "here"}
QUICK = ["run", "gmm", "--estimators", "reinmax", "--num-steps", "3", "--seeds", "0", "--num-observations", "4"]


# Files


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {path.name: path for path in DAMAGE["folders"](tmp_path_factory.mktemp("runs"))}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_cost_one_clear_error(runs, kind):
    """A dozen of the damages that scripts/damage.py knows; it makes all of them."""
    cases = DAMAGE["cases"](runs[kind])
    for path, what, content in random.Random(kind).sample(cases, 12):
        assert DAMAGE["problem_with"](runs[kind], path, content) is None, f"{path.name}: {what}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_line_is_named_and_can_be_removed(runs, kind, tmp_path, capsys):
    folder = Path(shutil.copytree(runs[kind], tmp_path / kind))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    for bad in (
        "null",
        "{}",
        json.dumps({**json.loads(lines[0]), "estimator": 3, "step": "x", "method": [], "seed": "y"}),
    ):
        (folder / "metrics.jsonl").write_text("\n".join([*lines, bad]) + "\n")
        assert main(["report", str(folder)]) == 2
        said = capsys.readouterr().err
        assert f"metrics.jsonl, line {len(lines) + 1} is damaged" in said
        assert "remove that line" in said
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["report", str(folder)]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_without_one_of_its_fields_names_it(runs, kind, tmp_path, capsys):
    folder = Path(shutil.copytree(runs[kind], tmp_path / kind))
    content = json.loads((folder / "config.json").read_text())
    for key in content["config"]:
        fewer = {**content, "config": {name: value for name, value in content["config"].items() if name != key}}
        (folder / "config.json").write_text(json.dumps(fewer))
        assert main(["report", str(folder)]) == 2
        assert f"lacks {key}; add it to the config, the default is" in capsys.readouterr().err


# Folders


def opened(path, config=None, **more):
    with open_run_folder(path, experiment="x", config=config or {"a": 1}, facts=FACTS, **more) as folder:
        return folder


def test_a_folder_where_nothing_was_measured_takes_another_config(tmp_path):
    opened(tmp_path / "run")
    folder = opened(tmp_path / "run", {"a": 2})
    assert folder.read_config()["config"] == {"a": 2}
    folder.append_metrics({"b": 1})
    with pytest.raises(RunFolderError, match="another config"):
        opened(tmp_path / "run", {"a": 3})


def test_a_worker_that_outlived_its_driver_keeps_the_folder(tmp_path):
    from filelock import FileLock

    opened(tmp_path / "run")
    (tmp_path / "run" / "locks").mkdir()
    with FileLock(tmp_path / "run" / "locks" / "cell.lock"), pytest.raises(RunFolderError, match="another config"):
        opened(tmp_path / "run", {"a": 2})
    opened(tmp_path / "run", {"a": 2})


@pytest.mark.parametrize(
    "options",
    [
        ["vae", "--dataset", "digits8", "--num-epochs", "1", "--hidden-sizes", "0"],
        ["vae", "--dataset", "digits8", "--num-epochs", "1", "--seeds", str(2**64)],
        ["gmm", "--seeds", "0", "0"],
        ["polynomial", "--seeds", str(-(2**70))],
        ["polynomial", "--powers", "2", "2"],
        ["law", "--seeds", "1", "1"],
        ["law", "--t1", "0.5", "0.5"],
        ["sudoku", "--attempts", "-1"],
        ["sudoku", "--levels", "easy", "easy"],
        ["sudoku", "--priors", "none", "none"],
    ],
)
def test_values_are_checked_before_anything_is_written(tmp_path, options, capsys):
    assert main(["run", *options, "--folder", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_point_of_a_sweep_has_numbers_where_the_space_is_a_range():
    point = {"lr": 1e-3, "t1": 0.5, "other": "of another version"}
    trial = {"phase": "search", "estimator": "redge", "number": 0, "point": point, "state": "pruned"}
    for good in (
        trial,
        {**trial, "state": "complete", "validation": 1.0},
        {**trial, "estimator": "of another version"},
    ):
        checked_json(LINES, json.dumps(good))
    for key in ("lr", "t1"):
        for wrong in ("word", None, True):
            for ended in ({}, {"state": "complete", "validation": 1.0}):
                bad = json.dumps({**trial, **ended, "point": {**point, key: wrong}})
                with pytest.raises(ValueError, match=f"{key} of the point must be a number, got {wrong!r}"):
                    checked_json(LINES, bad)


@pytest.mark.parametrize(
    "options",
    [
        ["measure", "--objectives", "quadratic", "nonsense"],
        ["measure", "--objectives", "quadratic", "quadratic"],
        ["measure", "--num-draws", "1"],
        ["measure", "--seed", str(2**64)],
        ["tune", "--seed", str(2**64)],
        ["tune", "--lr", "-1"],
    ],
)
def test_values_are_checked_before_anything_is_measured(options, capsys):
    assert main(options) == 2
    assert capsys.readouterr().err.count("\n") == 1  # no line of progress


def test_leftovers_of_killed_processes_are_removed_and_those_of_living_ones_kept(tmp_path):
    folder = opened(tmp_path / "run").path
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    node = writer.platform.node()
    (folder / "deep").mkdir()
    gone = [folder / ".table.md-abcd.part", folder / "deep" / f".x-{dead.stdout.strip()}@{node}-ab.part"]
    kept = [folder / f".x-{os.getpid()}@{node}-ab.part", folder / ".x-1@elsewhere-ab.part", folder / "my.part"]
    for path in (*gone, *kept):
        path.write_text("x")
    opened(tmp_path / "run")
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)


def test_a_killed_write_leaves_a_name_that_is_swept(tmp_path):
    code = (
        "import os, signal, pathlib\nfrom catreparam.report import writer\n"
        "writer.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"writer.write_atomically(pathlib.Path({str(tmp_path)!r}) / 'a.json', 'x')"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(tmp_path.glob(".*.part"))) == 1
    writer.sweep_parts(tmp_path)
    assert not list(tmp_path.iterdir())


def test_paths_that_cannot_be_folders_are_named(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        assert main([*QUICK, "--folder", str(path)]) == 2
        assert f"{tmp_path / 'file'} is a file, not a folder; choose another --folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "file")]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
    odd = os.fsdecode(b"\xff\xfe")
    with pytest.raises(RunFolderError, match="is no UTF-8 text; choose another --folder"):
        opened(tmp_path / odd)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main([*QUICK, "--folder=~/run"]) == 0
    assert main(["report", "~/run"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_report_that_cannot_be_written_is_printed(tmp_path, monkeypatch, capsys):
    assert main([*QUICK, "--folder", str(tmp_path / "run")]) == 0
    table = capsys.readouterr().out

    def refuse(*arguments):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("catreparam.experiments.runs.folder.write_report", refuse)
    assert main(["report", str(tmp_path / "run")]) == 2
    said = capsys.readouterr()
    assert said.out.strip() == table.partition("Report:")[0].strip()
    assert "Read-only file system" in said.err


# Estimators and seeds


@pytest.mark.parametrize(
    ("specs", "searched", "message"),
    [
        (("redge", "redge:t1=0.5"), False, "'redge:t1=0.5' is the same as 'redge'"),
        (("redge:t1=0.9,num_steps=2", "redge:num_steps=2,t1=0.9"), False, "is the same as 'redge:t1=0.9,num_steps=2'"),
        (("redge:t1=0.9,num_steps=2", "redge:num_steps=2,t1=0.9"), True, "is the same as"),
        (("redge:t1=.9", "redge:t1=0.9"), False, "is listed twice"),
        (("redge", "redge:t1=0.5"), True, None),
        (("redge", "redge:t1=0.9", "redge_cov"), False, None),
    ],
)
def test_an_estimator_in_two_spellings_is_one(specs, searched, message):
    if message is None:
        assert normalise_specs(specs, searched=searched) == specs
    else:
        with pytest.raises(ValueError, match=message):
            normalise_specs(specs, searched=searched)


def test_seeds_are_those_of_a_generator():
    check_seeds("seeds", (0, -(2**63), 2**63 - 1))
    with pytest.raises(ValueError, match=r"seeds must lie in \[-2\^63, 2\^63\), got 18446744073709551616"):
        check_seeds("seeds", (2**64,))


# Terminals

COMMANDS = {
    "list": ["list"],
    "measure": ["measure", "--objectives", "quadratic", "--estimators", "reinmax", "--num-draws", "100"],
    "run": QUICK,
    "error": ["run", "gmm", "--estimators", "redge:t1=−1"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_no_print_fails_for_its_characters(tmp_path, command, encoding):
    words = COMMANDS[command] + (["--folder", str(tmp_path / "run")] if command == "run" else [])
    done = catreparam(words, tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == (2 if command == "error" else 0), done.stderr
    assert b"Traceback" not in done.stderr
    text = (done.stdout if command != "error" else done.stderr).decode(encoding)
    assert text.strip()
    assert "+-" in text or encoding != "ascii" or command != "run"


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", ">&- 2>&-", "2>/dev/full", "<&- 2>&-"])
def test_a_closed_or_full_stream_does_not_end_a_run(tmp_path, redirection):
    words = " ".join([*QUICK, "--folder", str(tmp_path / "run")])
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m catreparam.cli {words} {redirection}"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0
    assert len(RunFolder(tmp_path / "run").read_metrics()) == 1
    assert (tmp_path / "run" / "report.html").exists()


def catreparam(words, folder, **environment):
    return subprocess.run(
        [sys.executable, "-m", "catreparam.cli", *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


def test_write_failures_carry_the_report_only_where_there_is_one():
    assert WriteFailed(28, "full").report is None
