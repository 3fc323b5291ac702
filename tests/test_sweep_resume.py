"""Sweeps that are killed, full disks and second sweeps: nothing is lost, and nothing is made twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from catreparam.experiments.runs.folder import RunFolder, RunFolderError, WriteFailed, open_run_folder
from catreparam.experiments.sweep.run import run_trial
from catreparam.experiments.sweep.study import run_sweep
from catreparam.experiments.sweep.trial import Sweep, Trial
from sweep_bed import BedStudy, assert_whole, bed_config, finished_sweep, records_of, stop_after, wait_for_lines

BED = Path(__file__).with_name("sweep_bed.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_sweep(tmp_path_factory)


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
        open_run_folder(folder, experiment="sweep-bed", config=content["config"], facts={}),
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
    assert run_trial(Trial(sweep, "search", "straight_through", 0)) == "done before"
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


@pytest.mark.slow
def test_a_sweep_on_two_ray_nodes_survives_a_lost_node_and_a_killed_driver(tmp_path):
    pytest.importorskip("ray", reason="needs pip install 'catreparam[distributed]'")
    script = BED.with_name("ray_bed.py")
    environment = {**os.environ, "RAY_DISABLE_IMPORT_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run")], env=environment, timeout=400, check=True
    )
    assert done.returncode == 0
    assert_whole(tmp_path / "run")
    assert (tmp_path / "lost-a-node").exists()
    assert (tmp_path / "killed-the-driver").exists()


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_what_the_search_learns_is_all_in_its_lines(tmp_path, pruner):
    """A sweep stopped in the middle draws the points of one that went through, and prunes as it does."""
    changes = {"num_trials": 14, "seeds": (), "estimators": ("gumbel_softmax",), "pruner": pruner}
    run_sweep(bed_config(tmp_path / "whole", **changes), BedStudy(tmp_path / "events"))
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(SystemError):
            run_sweep(bed_config(tmp_path / "resumed", **changes), BedStudy(tmp_path / "events"))
    run_sweep(bed_config(tmp_path / "resumed", **changes), BedStudy(tmp_path / "events"))
    records = records_of(tmp_path / "whole")
    assert records_of(tmp_path / "resumed") == records
    assert {r["state"] for r in records} == {"complete", "pruned"}


def test_lines_without_values_on_the_way_and_points_of_another_space_do_not_stop_a_search(tmp_path):
    folder, events = tmp_path / "run", tmp_path / "events"
    run_sweep(bed_config(folder, num_trials=8, seeds=(), estimators=("straight_through",)), BedStudy(events))
    records = records_of(folder)
    for record in records:
        del record["reported"]
    records[1]["point"] = {"lr": 5.0}
    records[2]["point"] = {"temperature": 1.0}
    RunFolder(folder).replace_metrics(records[:6])
    run_sweep(bed_config(folder, num_trials=8, seeds=(), estimators=("straight_through",)), BedStudy(events))
    assert [record["number"] for record in records_of(folder)] == list(range(8))
