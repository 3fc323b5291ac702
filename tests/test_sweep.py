"""Sweeps: what is searched, what is measured, and what the report says."""

import collections
import json

import pytest
import torch

from catreparam.cli import main
from catreparam.data import load_dataset
from catreparam.estimators import ESTIMATORS, make_estimator
from catreparam.experiments.runs.estimator_specs import parse_spec
from catreparam.experiments.sweep import vae as sweep_vae
from catreparam.experiments.sweep.chosen import best_of
from catreparam.experiments.sweep.search import Pruned, Search
from catreparam.experiments.sweep.spaces import space_of, spec_at, start_of
from catreparam.experiments.sweep.study import run_sweep
from catreparam.experiments.sweep.trial import Sweep, Trial
from catreparam.experiments.vae.config import Config as VaeConfig
from sweep_bed import BedStudy, assert_whole, bed_config, finished_sweep, records_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_sweep(tmp_path_factory)


def test_a_sweep_searches_then_runs_the_best_setting_with_fresh_seeds(finished):
    folder, report = finished
    assert_whole(folder)
    records = records_of(folder)
    for record in (r for r in records if r["phase"] == "final"):
        best = best_of(records, record["estimator"])
        assert record["spec"] == spec_at(record["estimator"], best["point"])
        assert record["lr"] == best["point"]["lr"]
    events = finished[0].with_name("events").read_text().splitlines()
    assert {line.split()[-1] for line in events if "search" in line} == {"1000"}
    assert {line.split()[-1] for line in events if "final" in line} == {"0", "1"}
    assert [row["estimator"] for row in report.table.rows] == ["straight_through", "redge:num_steps=2"]


def test_the_first_trial_has_the_default_hyperparameters(finished):
    for record in records_of(finished[0]):
        if record["phase"] == "search" and record["number"] == 0:
            space = space_of(record["estimator"], (2e-4, 5e-3), 0.01)
            assert record["point"] == pytest.approx(start_of(space))


def test_the_report_has_paired_differences_sensitivity_and_every_trial(finished):
    folder, report = finished
    row = report.table.rows[1]
    assert row["difference"] == pytest.approx(row["test"] - report.table.rows[0]["test"])
    assert row["difference_ci"] == pytest.approx(0.0, abs=1e-9)  # the seed moves both alike
    assert row["test_ci"] > 0
    assert {"Sensitivity to t1", "Sensitivity to learning rate", "Best so far"} <= {plot.title for plot in report.plots}
    assert len((folder / "search-trials.csv").read_text().splitlines()) == 1 + 6
    assert "Search trials" in (folder / "report.html").read_text()


def test_diverged_trials_are_named_and_an_estimator_without_any_other_gets_no_final_run(tmp_path):
    study = BedStudy(tmp_path / "events", diverge_at="search redge")
    report = run_sweep(bed_config(tmp_path / "run"), study)
    states = {row["estimator"]: row["state"] for row in report.table.rows}
    assert states == {"straight_through": "done", "redge:num_steps=2": "every trial diverged"}
    found = [r["state"] for r in records_of(tmp_path / "run") if r["phase"] == "search" and "redge" in r["estimator"]]
    assert found == ["diverged"] * 3


def test_trials_that_fall_behind_are_pruned(tmp_path):
    config = bed_config(tmp_path / "run", num_trials=25, seeds=(0,), estimators=("straight_through",))
    run_sweep(config, BedStudy(tmp_path / "events"))
    records = [r for r in records_of(tmp_path / "run") if r["phase"] == "search"]
    states = collections.Counter(r["state"] for r in records)
    assert states["pruned"] >= 3
    assert states["complete"] >= 4
    assert all("validation" not in r for r in records if r["state"] == "pruned")


def test_a_trial_is_pruned_by_trials_that_end_while_it_runs(tmp_path):
    folder, events = tmp_path / "run", tmp_path / "events"
    run_sweep(bed_config(folder, num_trials=4, seeds=(), estimators=("straight_through",)), BedStudy(events))
    sweep = Sweep(bed_config(folder, num_trials=5, estimators=("straight_through",)), BedStudy(events), folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:1]))
    search = Search(Trial(sweep, "search", "straight_through", 4))
    search.say(1, 1e6)  # one trial has ended: too few to judge
    (folder / "metrics.jsonl").write_text("".join(lines))
    with pytest.raises(Pruned):
        search.say(2, 1e6)
    assert search.said() == {"reported": [[1, 1e6], [2, 1e6]]}


def test_points_of_a_random_search_do_not_depend_on_the_order(tmp_path):
    for jobs in (1, 2):
        config = bed_config(tmp_path / str(jobs) / "run", jobs=jobs, sampler="random", pruner="none")
        config.folder.parent.mkdir()
        run_sweep(config, BedStudy(config.folder.with_name("events")))
    assert records_of(tmp_path / "1/run") == records_of(tmp_path / "2/run")


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_the_search_space_of_every_estimator_starts_at_a_valid_setting(name):
    spec = spec_at(name, start_of(space_of(name, (1e-3, 1e-2), 1e-3)))
    parsed, hyperparameters = parse_spec(spec)
    make_estimator(parsed, **hyperparameters)


def test_what_a_spec_fixes_is_not_searched():
    assert set(space_of("redge:num_steps=2", (1e-3, 1e-2), 1e-3)) == {"t1", "lr"}
    assert space_of("straight_through", (1e-3, 1e-3), 1e-3) == {}


VAE = VaeConfig(dataset="digits8", num_latents=4, num_classes=3, hidden_sizes=(16,), num_epochs=2, iwae_samples=2)


def test_the_search_of_the_vae_never_sees_test_images(monkeypatch):
    study, values = sweep_vae.VaeStudy(VAE), []
    data = load_dataset("digits8")
    for test in (data.test, torch.full_like(data.test, torch.nan)):
        object.__setattr__(data, "test", test)
        monkeypatch.setattr(sweep_vae, "load_dataset", lambda name: data)
        values.append(study.search("reinmax", 1e-3, 0, lambda step, value: None))
    assert values[0] == values[1]


def test_a_sweep_of_the_vae_leaves_curves_tables_and_pictures(tmp_path, capsys):
    words = ["sweep", "vae", "--preset", "quick", "--estimators", "reinmax", "straight_through", "--num-trials", "2"]
    words += ["--vae.num-epochs", "2", "--vae.num-latents", "4", "--vae.hidden-sizes", "16", "--folder", str(tmp_path)]
    assert main(words) == 0
    assert "difference to the best" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    for text in ("Test −ELBO", "Sensitivity to learning rate", "data:image/png", "binarisation"):
        assert text in page
    table = (tmp_path / "table.csv").read_text()
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "table.csv").read_text() == table
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["config"]["vae"]["dataset"] == "digits8"


@pytest.mark.parametrize("study", ["polynomial", "gmm"])
def test_a_sweep_of_a_study_in_closed_form(study, tmp_path, capsys):
    words = ["sweep", study, "--preset", "quick", "--estimators", "reinmax", "--num-trials", "2"]
    words += [f"--{study}.num-steps", "20", "--folder", str(tmp_path)]
    assert main(words) == 0
    assert main(words) == 0
    assert "temperature=" in capsys.readouterr().out
    assert len(records_of(tmp_path)) == 2 + 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-trials", "0"], "num_trials must be at least 1"),
        (["--seeds", "1000"], "seeds and search_seeds must differ"),
        (["--pruner", "mediam"], "Did you mean 'median'"),
        (["--engine", "slurm"], "unknown engine 'slurm'"),
        (["--lr-range", "0.1", "0.01"], "lr_range must be two numbers"),
        (["--vae.lr", "0.1"], "use --lr-range instead of --vae.lr"),
        (["--vae.dataset", "digits9"], "Did you mean 'digits8'"),
    ],
)
def test_mistakes_give_one_line(words, message, tmp_path, capsys):
    assert main(["sweep", "vae", *words, "--folder", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
