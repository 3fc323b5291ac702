"""Several processes on one model: the gradient is that of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from catreparam.cli import main
from catreparam.experiments.runs.folder import RunFolder
from catreparam.experiments.vae.team import Team, check_team
from team_bed import gradients

BED = Path(__file__).with_name("team_bed.py")
RUN = ["run", "vae", "--dataset", "digits8", "--num-latents", "4", "--num-classes", "3", "--hidden-sizes", "16"]
RUN += ["--num-epochs", "2", "--iwae-samples", "2", "--estimators", "reinmax", "redge", "--batch-size", "631"]


def torchrun(*words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(command, check=True, timeout=300, env=environment, capture_output=True, text=True).stdout


def test_shares_cover_every_row_once():
    for count, size in ((8, 3), (1, 2), (5, 5), (101, 2)):
        rows = [row for rank in range(size) for row in range(count)[Team(rank, size).rows(count)]]
        assert rows == list(range(count))


def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(tmp_path):
    torchrun(str(BED), str(tmp_path / "gradients.safetensors"))
    together, alone = load_file(tmp_path / "gradients.safetensors"), gradients(Team())
    assert together.keys() == alone.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
        assert gradient.abs().max() > 1e-3


@pytest.mark.slow
def test_a_run_under_torchrun_writes_one_folder_with_the_numbers_of_a_run_alone(tmp_path):
    out = torchrun("-m", "catreparam.cli", *RUN, "--folder", str(tmp_path / "two"))
    assert out.count("Report:") == 1
    assert main([*RUN, "--folder", str(tmp_path / "one")]) == 0
    together, alone = (RunFolder(tmp_path / name).read_metrics() for name in ("two", "one"))
    assert len(together) == len(alone) == 4
    for first, second in zip(together, alone, strict=True):
        for key in ("train_loss", "test_negative_elbo", "validation_negative_elbo"):
            assert first[key] == pytest.approx(second[key], rel=1e-4)


def test_what_a_team_cannot_train_is_refused():
    with pytest.raises(ValueError, match=r"reinforce.*without torchrun"):
        check_team(["redge", "reinforce"], jobs=1)
    with pytest.raises(ValueError, match="jobs=2 and torchrun"):
        check_team(["redge"], jobs=2)


def test_tensorboard_gets_every_number_of_the_metrics(tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main([*RUN, "--tensorboard", "--folder", str(tmp_path)]) == 0
    events = loader.EventAccumulator(str(tmp_path / "tensorboard" / "redge-seed0")).Reload()
    records = [r for r in RunFolder(tmp_path).read_metrics() if r["estimator"] == "redge"]
    logged = [(event.step, event.value) for event in events.Scalars("test_negative_elbo")]
    assert logged == [(r["epoch"], pytest.approx(r["test_negative_elbo"])) for r in records]
