"""AntiBERTy: weights out of a wheel that is whole, or one error and nothing half-written; the model itself."""

import errno
import hashlib
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch

import antibody_bed as bed
from catreparam.cli import main
from catreparam.data import fetch
from catreparam.experiments.guide.antibody import weights
from catreparam.masked_diffusion import Denoiser, sample
from catreparam.models.antiberty import CHAINS, SPECIES, load_antiberty
from catreparam.models.checkpoints import CheckpointError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CATREPARAM_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Writes a wheel and lets its sum be the right one; returns its path."""

    def write(content, *, right_sum=True):
        path = tmp_path / "antiberty-0.1.3-py3-none-any.whl"
        path.write_bytes(content)
        if right_sum:
            monkeypatch.setattr(weights, "SHA256", hashlib.sha256(content).hexdigest())
        return str(path)

    return write


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_wheels_weights_become_safetensors_that_load(cache, given, capsys):
    source = given(bed.wheel(bed.member(bed.state_dict())))
    assert main(["data", "antiberty", "--from", source]) == 0
    assert files(cache) == ["antiberty/antiberty.safetensors"]
    assert str(weights.weights_path()) in capsys.readouterr().out
    assert isinstance(weights.load_prior(), Denoiser)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch ran-code",)


def without(*names):
    return bed.member({key: value for key, value in bed.state_dict().items() if key not in names})


def changed(**tensors):
    return bed.member({**bed.state_dict(), **{key.replace("/", "."): value for key, value in tensors.items()}})


BAD = {
    "malicious": (lambda: bed.wheel(pickle.dumps(Malicious())), "no PyTorch checkpoint|could run code"),
    "malicious zip": (lambda: bed.wheel(bed.member({"x": Malicious()})), "could run code"),
    "truncated wheel": (lambda: bed.wheel(bed.member(bed.state_dict()))[:-500], "truncated or no wheel"),
    "truncated weights": (lambda: bed.wheel(bed.member(bed.state_dict())[:-500]), "truncated or no PyTorch"),
    "empty wheel": (lambda: b"", "truncated or no wheel"),
    "no wheel": (lambda: b"<html>moved</html>", "truncated or no wheel"),
    "another wheel": (lambda: bed.wheel(b"", "other/weights.bin"), "lacks antiberty/trained_models"),
    "no tensors": (lambda: bed.wheel(bed.member([1, 2])), "no state dict"),
    "another model": (lambda: bed.wheel(bed.member({"weight": torch.zeros(2)})), "is not AntiBERTy"),
    "a head is missing": (lambda: bed.wheel(without("cls.chain.weight")), "missing: chain.weight"),
    "another shape": (lambda: bed.wheel(changed(**{"cls/chain/weight": torch.zeros(3, 16)})), "other shape"),
    "not finite": (lambda: bed.wheel(changed(**{"cls/chain/bias": torch.tensor([0.0, torch.nan])})), "finite"),
    "no numbers": (lambda: bed.wheel(changed(**{"cls/chain/bias": torch.tensor([0, 1])})), "finite"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("before", [False, True], ids=["empty cache", "weights there"])
def test_a_bad_wheel_is_one_line_and_nothing_is_half_written(cache, given, capsys, monkeypatch, tmp_path, name, before):
    monkeypatch.chdir(tmp_path)
    earlier = bed.install_weights(cache).read_bytes() if before else None
    content, says = BAD[name]
    assert main(["data", "antiberty", "--from", given(content())]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert re.search(says, said[0]), said
    assert files(cache) == (["antiberty/antiberty.safetensors"] if before else [])
    assert not before or weights.weights_path().read_bytes() == earlier
    assert not (tmp_path / "ran-code").exists()


def test_another_sum_is_refused_before_anything_is_read(cache, given, monkeypatch):
    monkeypatch.setattr(weights, "keep_zip_member", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(fetch.DamagedData, match="sha256"):
        weights.fetch_antiberty(given(bed.wheel(b"anything"), right_sum=False))
    assert files(cache) == []


def test_a_member_that_unpacks_to_more_than_allowed_is_refused(cache, given, monkeypatch):
    monkeypatch.setattr(weights, "MEMBER_BYTES", 1000)
    with pytest.raises(fetch.DamagedData, match="more than the 1000 bytes"):
        weights.fetch_antiberty(given(bed.wheel(bytes(10_000_000))))
    assert files(cache) == []


@pytest.mark.parametrize("where", ["member", "weights"])
def test_a_full_disk_is_one_line_and_nothing_is_half_written(cache, given, monkeypatch, capsys, where):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = given(bed.wheel(bed.member(bed.state_dict())))
    if where == "member":
        monkeypatch.setattr(weights, "keep_zip_member", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    assert main(["data", "antiberty", "--from", source]) == 2
    assert capsys.readouterr().err.strip() == "catreparam: No space left on device"
    assert files(cache) == []


def test_pip_fetches_the_wheel_and_runs_nothing_of_it(cache, given, monkeypatch):
    content = bed.wheel(bed.member(bed.state_dict()))
    given(content)
    asked = []

    def pip(command, *, cwd, **_):
        asked.append(command)
        (cwd / "antiberty-0.1.3-py3-none-any.whl").write_bytes(content)
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    assert weights.fetch_antiberty().is_file()
    weights.fetch_antiberty("https://example.org/antiberty.whl")
    assert [command[-1] for command in asked] == [weights.WHEEL, "https://example.org/antiberty.whl"]
    for command in asked:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--only-binary", ":all:"} <= set(command)  # no source, whose build would run


def test_without_pip_or_network_the_message_says_what_else_works(cache, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, b"", b"WARNING: retrying\nERROR: no matching distribution\n")
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(fetch.MissingData, match=r"no matching distribution.*--from FILE\.whl"):
        weights.fetch_antiberty()
    with pytest.raises(fetch.MissingData, match="there is no wheel"):
        weights.fetch_antiberty("nowhere.whl")
    assert files(cache) == []


def test_from_is_for_antiberty_alone(capsys):
    assert main(["data", "mnist", "--from", "x.whl"]) == 2
    assert "--from is for antiberty" in capsys.readouterr().err


def test_missing_and_damaged_weights_say_what_to_do(cache):
    with pytest.raises(fetch.MissingData, match="catreparam data antiberty"):
        weights.load_prior()
    path = bed.install_weights(cache)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="fetch it again"):
        weights.load_prior()


@pytest.fixture
def model(tmp_path):
    return load_antiberty(bed.install_weights(tmp_path))


def test_the_denoiser_is_transformers_network_between_start_and_end(model):
    network = bed.bert()
    network.load_state_dict({k: v for k, v in bed.state_dict().items() if k in network.state_dict()})
    tokens = torch.tensor([[0, 5, 20, 19, 7], [20, 20, 3, 3, 20]])
    ids = torch.tensor([[2, 5, 10, 4, 24, 12, 3], [2, 4, 4, 8, 8, 4, 3]])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), network(input_ids=ids).logits[:, 1:-1, 5:])


def test_heads_read_one_hot_sequences_and_pass_gradients(model):
    tokens = torch.tensor([[0, 5, 2, 19, 7]])
    x = torch.nn.functional.one_hot(tokens, 20).float().requires_grad_()
    with torch.no_grad():
        hidden = model.language_model.bert(input_ids=torch.tensor([[2, 5, 10, 7, 24, 12, 3]])).last_hidden_state[:, 0]
        pooled = torch.tanh(model.pooler(hidden))
    for head, classes in (("chain", CHAINS), ("species", SPECIES)):
        log_probs = model.log_probs(head, x)
        assert log_probs.shape == (1, len(classes))
        torch.testing.assert_close(log_probs.detach(), getattr(model, head)(pooled).log_softmax(-1))
        (gradient,) = torch.autograd.grad(log_probs[0, 0], x)
        assert gradient.shape == x.shape
        assert bool((gradient.abs().sum(-1) > 0).all())


def test_too_many_residues_are_one_error(model):
    assert model(torch.zeros(1, 510, dtype=torch.long)).shape == (1, 510, 20)
    with pytest.raises(ValueError, match="at most 510 residues, got 511"):
        model(torch.zeros(1, 511, dtype=torch.long))


def test_special_tokens_cannot_be_drawn_and_the_rest_stays(model):
    tokens = torch.full((64, 6), 20)
    tokens[:, 0] = 4
    drawn = sample(model, tokens, num_rounds=2, generator=torch.Generator().manual_seed(0)).tokens
    assert bool((drawn[:, 0] == 4).all())
    assert 0 <= int(drawn.min()) <= int(drawn.max()) <= 19


def test_sequences_that_are_alike_are_evaluated_once(model, monkeypatch):
    tokens = torch.tensor([[0, 20, 2], [5, 20, 7], [0, 20, 2], [0, 20, 2]])
    sizes, network = [], model.language_model.forward
    monkeypatch.setattr(
        model.language_model, "forward", lambda **inputs: sizes.append(len(inputs["input_ids"])) or network(**inputs)
    )
    with torch.no_grad():
        together = model(tokens)
        assert sizes == [2]
        torch.testing.assert_close(together, torch.cat([model(row[None]) for row in tokens]))
