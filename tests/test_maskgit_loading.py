"""Files from elsewhere: official containers, and one clear error for everything that is wrong with them."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from catreparam.models.checkpoints import CheckpointError, read_checkpoint
from catreparam.models.maskgit_loading import check_vocabulary, load_maskgit, load_vq

FIXTURES = Path(__file__).parent / "fixtures" / "maskgit"


@pytest.fixture(scope="module")
def transformer():
    return load_file(FIXTURES / "transformer_patch1.safetensors")


class Malicious:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_official_container_and_prefixes_are_taken_off(tmp_path, transformer, prefix):
    content = {"iter": 7, "model_state_dict": {prefix + name: tensor for name, tensor in transformer.items()}}
    torch.save({**content, "global_epoch": 1, "optimizer_state_dict": None}, tmp_path / "vit.pth")
    model = load_maskgit(tmp_path / "vit.pth", heads=4)
    assert all(torch.equal(tensor, transformer[name]) for name, tensor in model.state_dict().items())
    assert model.head.weight is model.tok_emb.weight


def test_vq_container_is_taken_off(tmp_path):
    tensors = load_file(FIXTURES / "vq_tiny.safetensors")
    tensors["quantize.codebook_used"] = torch.zeros(65536)
    torch.save({"model": tensors}, tmp_path / "vq.pt")
    assert load_vq(tmp_path / "vq.pt", encoder=True).config.usage_buffer == 65536


def test_old_file_format_is_read_too(tmp_path, transformer):
    torch.save(transformer, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.pt").keys() == transformer.keys()


@pytest.mark.parametrize("zipped", [True, False])
def test_file_that_would_run_code_is_refused(tmp_path, transformer, zipped):
    target, path = tmp_path / "made by the file", tmp_path / "bad.pth"
    content = {"model_state_dict": transformer, "args": Malicious(target)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="was refused: reading it could run code"):
        load_maskgit(path, heads=4)
    assert not target.exists()


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", ["vit.pth", "vit.safetensors", "old.pth"])
def test_truncated_file_is_named(tmp_path, transformer, name, kept):
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(transformer, path)
    else:
        torch.save({"model_state_dict": transformer}, path, _use_new_zipfile_serialization=name != "old.pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match=rf"{name} is truncated or no"):
        load_maskgit(path, heads=4)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_vq(tmp_path / "vq.pt")


def test_file_without_tensors_is_named(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_vq(tmp_path / "empty.pt")


def test_files_of_the_other_model_are_named():
    with pytest.raises(CheckpointError, match="no checkpoint of a MaskGIT transformer"):
        load_maskgit(FIXTURES / "vq_tiny.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint of a LlamaGen VQ model"):
        load_vq(FIXTURES / "transformer_patch1.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("transformer.layers.1.ff.w2.weight"), "missing: transformer.layers.1.ff.w2.weight"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected: extra"),
        (lambda t: t.update({"head.weight": torch.zeros(40, 64)}), r"head.weight is \[40, 64\] there and \[33, 64\]"),
        (lambda t: t.update({"pos_emb.weight": torch.zeros(15, 64)}), "no square grid"),
    ],
    ids=["missing", "unexpected", "wrong vocabulary", "grid"],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, transformer, change, message):
    tensors = dict(transformer)
    change(tensors)
    save_file(tensors, tmp_path / "vit.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_maskgit(tmp_path / "vit.safetensors", heads=4)


def test_models_of_different_vocabularies_are_named(transformer):
    vit = load_maskgit(FIXTURES / "transformer_patch1.safetensors", heads=4)
    vq = load_vq(FIXTURES / "vq_tiny.safetensors")
    check_vocabulary(vit, vq)
    small = {"codebook_size": 16}
    object.__setattr__(vq, "config", type(vq.config)(**{**vars(vq.config), **small}))
    with pytest.raises(ValueError, match="32 codes and the VQ model 16"):
        check_vocabulary(vit, vq)
