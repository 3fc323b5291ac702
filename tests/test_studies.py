"""The studies that `make reproduce` and its further targets run are commands that exist, with what they publish."""

import importlib
import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from catreparam import cli
from catreparam.experiments import STUDIES as MODULES

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
REPRODUCE = runpy.run_path(str(ROOT / "scripts" / "reproduce.py"))
sys.path.pop(0)
STUDIES = REPRODUCE["STUDIES"]


class Reached(Exception):
    """The command has read its options."""


def config_of(monkeypatch, command, options):
    """What the study would run with, checked; nothing runs."""
    configs = []

    def run(config):
        configs.append(config.checked())
        raise Reached

    monkeypatch.setattr(importlib.import_module(MODULES[command]), "run", run)
    with pytest.raises(Reached):
        cli.main([*command.split(), *options.split()])
    return configs[0]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_a_command_with_options_that_it_takes(name, monkeypatch):
    study = STUDIES[name]
    config = config_of(monkeypatch, study.command, f"{study.options} {study.seeds} --jobs 2")
    assert config.jobs == 2
    if study.seeds:
        assert config.seeds == tuple(map(int, study.seeds.split()[1:]))
    if study.search:
        searched = config_of(monkeypatch, study.command, f"{study.options} {study.search} --seeds")
        assert (searched.seeds, searched.search_seeds) == ((), (1000,))
        assert searched.estimators == config.estimators


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_its_results_and_the_settings_that_it_takes(name):
    results, study = ROOT / "docs" / "results", STUDIES[name]
    assert [*(results / name).glob("**/table.csv")], "nothing was published"
    if study.search or study.settings_of:
        assert (results / (study.settings_of or name) / "settings.json").exists()
    for title in study.plots:
        assert (results / name / f"{REPRODUCE['slug'](title)}.svg").exists()


def test_a_study_is_made_once_and_published(tmp_path, monkeypatch):
    """`reproduce` runs a study, copies its page and tables, and draws its plots. Its second call finds all done."""
    monkeypatch.chdir(tmp_path)
    small = REPRODUCE["Study"](
        "run polynomial",
        "--estimators reinmax redge --powers 2 --num-variables 4 --num-steps 4",
        plots=("p = 2",),
        seeds="--seeds 0 1",
    )
    monkeypatch.setitem(STUDIES, "small", small)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--only", "small", "--jobs", "1"])
    metrics = tmp_path / "runs" / "reproduce" / "small" / "metrics.jsonl"
    assert REPRODUCE["main"]() == 0
    written = metrics.read_bytes()
    assert REPRODUCE["main"]() == 0
    assert metrics.read_bytes() == written
    results = tmp_path / "docs" / "results" / "small"
    assert {"report.html", "table.csv", "p-2.svg"} == {path.name for path in results.iterdir()}
    assert "reinmax" in (results / "table.csv").read_text("utf-8")


def test_new_settings_are_published_only_with_final_runs_that_had_them(tmp_path, monkeypatch, capsys):
    """A search that finds others than the runs had is one error; without the folder of those all is made and agrees."""
    monkeypatch.chdir(tmp_path)
    options = "--estimators straight_through --polynomial.num-variables 4 --polynomial.batch-size 4"
    small = REPRODUCE["Study"](
        "sweep polynomial", f"{options} --polynomial.num-steps 4", search="--num-trials 2", seeds="--seeds 0"
    )
    monkeypatch.setitem(STUDIES, "small", small)
    runs, results = tmp_path / "runs" / "reproduce" / "small", tmp_path / "docs" / "results" / "small"
    results.mkdir(parents=True)
    setting = {"spec": "straight_through", "lr": 0.25}
    (results / "settings.json").write_text(
        json.dumps({"study": "polynomial", "settings": {"straight_through": setting}})
    )
    REPRODUCE["reproduce"]("small", tune=False, jobs=1)
    published = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        REPRODUCE["reproduce"]("small", tune=True, jobs=1)
    assert "runs/reproduce/small holds runs of straight_through at learning rate 0.25" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == published
    shutil.rmtree(runs)
    REPRODUCE["reproduce"]("small", tune=True, jobs=1)
    (final,) = REPRODUCE["final_runs"]("small")
    settings = json.loads((results / "settings.json").read_text())["settings"]
    assert settings["straight_through"]["lr"] == final["lr"] != 0.25
    assert (results / "search" / "table.csv").exists()


def test_a_first_search_that_fails_in_its_final_runs_leaves_no_settings(tmp_path):
    found, published = tmp_path / "found.json", tmp_path / "results" / "settings.json"
    found.write_text("new")

    def fail():
        with REPRODUCE["replaced"](published, found):
            assert published.read_text() == "new"
            raise SystemExit(2)

    with pytest.raises(SystemExit):
        fail()
    assert not published.exists()
