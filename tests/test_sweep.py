"""Sweeps: what is searched, what is measured, and that nothing is lost or made twice."""

import collections
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from catreparam.cli import main
from catreparam.data import load_dataset
from catreparam.experiments.runs.cells import measure_cell
from catreparam.experiments.runs.folder import RunFolder, RunFolderError, WriteFailed, open_run_folder
from catreparam.experiments.sweep import vae as sweep_vae
from catreparam.experiments.sweep.chosen import best_of
from catreparam.experiments.sweep.plan import Sweep
from catreparam.experiments.sweep.spaces import space_of, spec_at, start_of
from catreparam.experiments.sweep.study import run_sweep, trials_of
from catreparam.experiments.vae.config import Config as VaeConfig
from sweep_bed import BedStudy, bed_config, records_of, stop_after

BED = Path(__file__).with_name("sweep_bed.py")


def assert_whole(folder, trials=10):
    """Every trial has one line, and there is no second truth beside the lines."""
    counts = collections.Counter((r["phase"], r["estimator"], r["number"]) for r in records_of(folder))
    assert len(counts) == trials
    assert set(counts.values()) == {1}
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    assert names == {"locks"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "run"
    return folder, run_sweep(bed_config(folder), BedStudy(folder.with_name("events")))


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
    assert row["difference_ci"] is row["test_ci"] is None  # two seeds
    assert {"Sensitivity to t1", "Sensitivity to learning rate", "Best so far"} <= {plot.title for plot in report.plots}
    assert len((folder / "search-trials.csv").read_text().splitlines()) == 1 + 6
    assert "Search trials" in (folder / "report.html").read_text()


def test_a_sweep_is_repeatable_and_resumes_to_the_same_numbers(finished, tmp_path):
    lines = (finished[0] / "metrics.jsonl").read_text().splitlines(keepends=True)
    for kept in (0, 1, 5, 7):
        folder = tmp_path / str(kept) / "run"
        study = BedStudy(tmp_path / str(kept) / "events")
        folder.parent.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, kept)
            with pytest.raises(SystemError):
                run_sweep(bed_config(folder), study)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(lines[kept][:30])  # killed while writing
        run_sweep(bed_config(folder), study)
        assert records_of(folder) == records_of(finished[0])
        assert_whole(folder)


def test_a_full_disk_is_one_clear_error_and_the_same_command_goes_on(finished, tmp_path):
    study = BedStudy(tmp_path / "events")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 4, WriteFailed(28, "cannot write: No space left on device"))
        with pytest.raises(WriteFailed, match="No space left"):
            run_sweep(bed_config(tmp_path / "run"), study)
    assert len(records_of(tmp_path / "run")) == 4
    run_sweep(bed_config(tmp_path / "run"), study)
    assert records_of(tmp_path / "run") == records_of(finished[0])
    assert_whole(tmp_path / "run")


def test_two_sweeps_in_one_folder_are_refused(finished):
    folder, _ = finished
    content = RunFolder(folder).read_config()
    with (
        open_run_folder(folder, experiment="sweep-bed", config=content["config"], facts={"machine": "here"}),
        pytest.raises(RunFolderError, match="another process is running in"),
    ):
        run_sweep(bed_config(folder), BedStudy(folder))


def test_another_sweep_in_the_same_folder_is_refused_with_the_difference(finished):
    with pytest.raises(RunFolderError, match="num_trials: 3 there, 4 here"):
        run_sweep(bed_config(finished[0], num_trials=4), BedStudy(finished[0]))


def test_a_trial_that_another_worker_finished_meanwhile_is_not_made_again(finished):
    folder, _ = finished
    events = folder.with_name("events")
    before = events.read_text()
    sweep = Sweep(bed_config(folder), BedStudy(events), folder)
    assert measure_cell(trials_of(sweep, "search")[0]) is None
    assert events.read_text() == before


def test_a_killed_worker_is_replaced_and_its_trial_made_again(tmp_path):
    study = BedStudy(tmp_path / "events", kill_at="search redge")
    run_sweep(bed_config(tmp_path / "run", jobs=2, pruner="none"), study)
    assert (tmp_path / "killed").exists()
    assert_whole(tmp_path / "run")


def test_a_killed_driver_loses_at_most_the_trials_in_flight(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, str(BED), str(folder), "0.1", "2"]
    driver = subprocess.Popen(command)
    wait_for_lines(folder, 3)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    survived = len(records_of(folder))
    subprocess.run(command, check=True)  # at once: workers of the dead driver may still be at it
    assert_whole(folder)
    ends = [line for line in (tmp_path / "events").read_text().splitlines() if line.startswith("end")]
    assert survived >= 3
    assert 10 <= len(ends) <= 12  # two were in flight at most


def wait_for_lines(folder, count, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if len(RunFolder(folder).read_metrics()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{folder} did not reach {count} lines in {seconds} s")


VAE = VaeConfig(dataset="digits8", num_latents=4, num_classes=3, hidden_sizes=(16,), num_epochs=2, iwae_samples=2)


def test_the_search_of_the_vae_never_sees_test_images(monkeypatch):
    study, values = sweep_vae.study_of(sweep_vae.Config(vae=VAE)), []
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


def test_a_search_alone_and_its_settings_make_the_runs_of_a_whole_sweep(finished, tmp_path):
    study = BedStudy(tmp_path / "events")
    report = run_sweep(bed_config(tmp_path / "search", seeds=()), study)
    assert {record["phase"] for record in records_of(tmp_path / "search")} == {"search"}
    assert [row["estimator"] for row in report.table.rows] == ["straight_through", "redge:num_steps=2"]
    assert not report.warning
    settings = tmp_path / "search" / "settings.json"
    report = run_sweep(bed_config(tmp_path / "final", settings=settings), study)
    assert records_of(tmp_path / "final") == [r for r in records_of(finished[0]) if r["phase"] == "final"]
    assert report.table.rows == finished[1].table.rows
    assert not (tmp_path / "final" / "settings.json").exists()
