"""VAE runs that are killed, damaged, locked or out of disk: they go on to the same numbers, or say what to do."""

import multiprocessing

import pytest
import torch

from catreparam.experiments.runs.folder import Interrupted, RunFolder, RunFolderError, WriteFailed, open_run_folder
from catreparam.experiments.vae import run as vae_runs
from catreparam.experiments.vae.study import run
from vae_bed import metrics, one_thread, stop_after, tiny  # noqa: F401


@pytest.mark.parametrize("spec", ["redge", "relax", "reinforce"])
@pytest.mark.parametrize("epochs_before", [1, 2])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(tmp_path, monkeypatch, spec, epochs_before):
    changes = {"estimators": (spec, "reinmax"), "binarisation": "dynamic"}
    monkeypatch.setattr(vae_runs, "CHECKPOINT_SECONDS", 0.0)
    run(tiny(tmp_path / "whole", **changes))
    with monkeypatch.context() as patch:
        stop_after(patch, epochs_before, KeyboardInterrupt())
        with pytest.raises(Interrupted):
            run(tiny(tmp_path / "parts", **changes))
    assert len(metrics(tmp_path / "parts")) == epochs_before
    run(tiny(tmp_path / "parts", **changes))
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_ctrl_c_leaves_a_report_that_says_how_to_go_on(tmp_path, monkeypatch):
    stop_after(monkeypatch, 2, KeyboardInterrupt())
    with pytest.raises(Interrupted, match="the same command resumes") as caught:
        run(tiny(tmp_path))
    assert caught.value.report.table.rows[0]["state"] == "2 of 3 epochs"
    assert "Unfinished" in (tmp_path / "report.html").read_text()


def test_ctrl_c_before_the_first_epoch_leaves_a_report_too(tmp_path, monkeypatch):
    stop_after(monkeypatch, 0, KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run(tiny(tmp_path))
    assert "not started" in (tmp_path / "table.md").read_text()


def test_metrics_written_after_the_last_checkpoint_are_made_again(tmp_path):
    run(tiny(tmp_path / "whole"))
    run(tiny(tmp_path / "killed", num_epochs=3))
    folder = RunFolder(tmp_path / "killed")
    tensors, _ = folder.load_checkpoint("straight_through-seed0")
    (folder.path / "checkpoints/straight_through-seed0.safetensors").unlink()
    run(tiny(tmp_path / "killed"))
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert all(map(torch.equal, folder.load_checkpoint("straight_through-seed0")[0].values(), tensors.values()))


def test_a_last_line_cut_short_by_a_kill_is_tolerated(tmp_path, monkeypatch):
    run(tiny(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop_after(patch, 2, KeyboardInterrupt())
        with pytest.raises(Interrupted):
            run(tiny(tmp_path / "cut"))
    with (tmp_path / "cut/metrics.jsonl").open("a") as file:
        file.write('{"estimator": "straight_thr')
    run(tiny(tmp_path / "cut"))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    run(tiny(tmp_path))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text(lines[0] + "garbage\n" + "".join(lines[1:]))
    with pytest.raises(RunFolderError, match="line 2"):
        run(tiny(tmp_path))


def test_a_damaged_checkpoint_is_an_error_that_names_the_file(tmp_path):
    run(tiny(tmp_path))
    path = tmp_path / "checkpoints/straight_through-seed0.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunFolderError, match="straight_through-seed0"):
        run(tiny(tmp_path))


def test_a_folder_with_other_files_is_not_written_into(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunFolderError, match="other files"):
        run(tiny(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == ["thesis.tex"]


def hold_folder(path, ready, die):
    with open_run_folder(path, experiment="vae", config={}, facts={"machine": "here"}):
        ready.set()
        die.wait(20)
        import os

        os._exit(1)  # no clean-up, as after kill -9


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_taken_over(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, die = context.Event(), context.Event()
    process = context.Process(target=hold_folder, args=(tmp_path, ready, die))
    process.start()
    assert ready.wait(60)
    with (
        pytest.raises(RunFolderError, match="another process"),
        open_run_folder(tmp_path, experiment="vae", config={}, facts={"machine": "here"}),
    ):
        pass
    die.set()
    process.join(20)
    with open_run_folder(tmp_path, experiment="vae", config={}, facts={"machine": "here"}) as folder:
        assert folder.read_config()["experiment"] == "vae"


def test_a_full_disk_is_one_clear_error_and_the_run_can_be_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(vae_runs, "CHECKPOINT_SECONDS", 0.0)
    run(tiny(tmp_path / "whole"))
    original, calls = RunFolder.save_checkpoint, []

    def save_checkpoint(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", save_checkpoint)
        with pytest.raises(WriteFailed, match="No space left on device"):
            run(tiny(tmp_path / "full"))
    monkeypatch.undo()
    run(tiny(tmp_path / "full"))
    assert metrics(tmp_path / "full") == metrics(tmp_path / "whole")
