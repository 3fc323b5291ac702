"""`catreparam guide train`: resumes to the same weights, and what it writes is what `guide` reads."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from catreparam.experiments.guide import train as guide_train
from catreparam.experiments.guide.training import shifted
from catreparam.experiments.runs.folder import RunFolder
from catreparam.models.digits_models import load_digits_models
from catreparam.models.initialise import initialise
from catreparam.models.vq_digits import DigitsVQ, vq_loss


def config(folder):
    return guide_train.Config(
        "mnist5k", vq_steps=2, reward_steps=3, heldout_steps=1, prior_steps=2, batch_size=8, checkpoint_every=1,
        folder=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    guide_train.run(config(folder))
    return folder / guide_train.OUTPUT


def test_weights_can_be_loaded_and_say_how_they_were_made(trained):
    models = load_digits_models(trained)
    assert models.facts["config"]["dataset"] == "mnist5k"
    assert {"psnr", "reward_accuracy", "heldout_accuracy", "prior_loss"} <= models.facts.keys()
    assert models.reference_mean.shape[0] == 11  # each label, then all


def test_report_can_be_rebuilt_from_the_folder(trained):
    page = (trained.parent / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("VQ model", "Reward classifier", "Held-out classifier", "Prior"))
    (trained.parent / "report.html").unlink()
    rebuilt = guide_train.report_folder(trained.parent)
    assert (trained.parent / "report.html").read_text(encoding="utf-8") == page
    assert [len(plot.curves[0].x) for plot in rebuilt.plots] == [2, 3, 1, 2]
    assert rebuilt.table.rows[0]["value"] == load_digits_models(trained).facts["psnr"]


def test_report_of_a_training_that_was_cut_says_so(trained, tmp_path):
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(trained.parent / name, tmp_path)
    assert "Unfinished: 8 of 8" in guide_train.report_folder(tmp_path).warning


def test_killed_training_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch):
    """Killed within the second stage; the first is not trained again, the second goes on from its checkpoint."""
    steps = []
    real = guide_train.stream

    def dying(seed, purpose, *rest):
        steps.append(purpose)
        if purpose == "reward step 2" and steps.count(purpose) == 1:
            raise KeyboardInterrupt
        return real(seed, purpose, *rest)

    monkeypatch.setattr(guide_train, "stream", dying)
    with pytest.raises(KeyboardInterrupt):
        guide_train.run(config(tmp_path))
    guide_train.run(config(tmp_path))
    assert [steps.count(f"{name} step {i}") for name, i in (("vq", 1), ("reward", 1), ("reward", 2))] == [1, 1, 2]
    resumed, whole = load_file(tmp_path / guide_train.OUTPUT), load_file(trained)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert RunFolder(tmp_path).read_metrics() == RunFolder(trained.parent).read_metrics()


def test_weights_of_something_else_are_refused(tmp_path, trained):
    from safetensors.torch import save_file

    tensors = load_file(trained)
    del tensors["vq.codebook"]
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="missing: codebook"):
        load_digits_models(tmp_path / "other.safetensors")


def test_shifted_images_move_as_a_whole():
    images = torch.zeros(50, 9, 9)
    images[:, 4, 4] = 1.0
    moved = shifted(images, torch.Generator().manual_seed(0))
    places = moved.flatten(1).argmax(1)
    assert torch.equal(moved.sum((1, 2)), torch.ones(50))
    assert places.unique().numel() > 10
    assert set((places // 9).tolist()) | set((places % 9).tolist()) == {2, 3, 4, 5, 6}


def test_codebook_moves_to_the_means_and_dead_codes_restart():
    with torch.device("meta"):
        vq = DigitsVQ(num_codes=3, code_dim=2, width=8)
    initialise(vq, torch.Generator().manual_seed(0))
    vq.codebook.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [50.0, 50.0]]))
    vq.code_mass.fill_(1.0)
    latents = torch.tensor([[0.0, 2.0], [0.0, 4.0], [1.0, 1.0]])
    tokens = torch.tensor([0, 0, 1])
    vq.update_codebook(latents, tokens, decay=0.0, generator=torch.Generator().manual_seed(0))
    assert vq.codebook[0].tolist() == [0.0, 3.0]
    assert vq.codebook[2].tolist() in latents.tolist()


def test_vq_loss_trains_the_encoder_through_the_codes():
    with torch.device("meta"):
        vq = DigitsVQ(num_codes=4, code_dim=2, width=8)
    generator = torch.Generator().manual_seed(0)
    initialise(vq, generator)
    images = torch.rand(2, 28, 28, generator=generator)
    loss, error = vq_loss(vq, images, commitment=0.0, generator=generator)
    loss.backward()
    assert torch.equal(loss, error)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vq.encoder.parameters())
