"""Going on after a kill: the same result to the bit, and what a checkpoint says of the call that wrote it."""

import json
import os
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from catreparam import make_estimator
from catreparam.guidance import EarlyStop
from guidance_bed import pair_reward, uniform
from methods import seeded
from test_guidance_generate import guide

# Of the call `guide()`, as the first version wrote it
DIGEST = "8a42ccf54c8f82269375d6ec53e5606ee81c1658e9f44db28ab0e3c1829f459a"


class Killed(Exception):
    pass


def kill_after(rounds: int):
    def progress(done: int, total: int) -> None:
        if done == rounds:
            raise Killed

    return progress


@pytest.mark.parametrize("rounds", [1, 2, 4])
@pytest.mark.parametrize("name", ["redge", "reinforce"])
def test_a_killed_generation_goes_on_to_bitwise_the_same_result(tmp_path, name, rounds):
    settings = {"remask_sigma": 0.5, "forgetting": 0.25}
    whole = guide(estimator=make_estimator(name), **settings)
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        guide(estimator=make_estimator(name), checkpoint=path, progress=kill_after(rounds), **settings)
    estimator = make_estimator(name)  # reinforce carries a moving average: it must be restored
    generator = seeded()
    torch.rand(9, generator=generator)  # its state is restored
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "holds this generation, finished" if rounds < 4 else ".* finished")
        resumed = guide(estimator=estimator, checkpoint=path, generator=generator, **settings)
    assert torch.equal(resumed.tokens, whole.tokens)
    assert torch.equal(resumed.kl, whole.kl)
    assert torch.equal(resumed.prior_log_prob, whole.prior_log_prob)
    assert resumed.trace.rows == whole.trace.rows
    assert resumed.evaluations == whole.evaluations


SCRIPT = """
import os, signal, sys, torch
sys.path.insert(0, {tests!r})
from test_guidance_generate import guide
def progress(done, total):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
guide(estimator="redge", checkpoint={path!r}, progress=progress)
"""


def test_a_generation_killed_by_the_system_goes_on(tmp_path):
    path = str(tmp_path / "state.safetensors")
    script = SCRIPT.format(tests=os.path.dirname(__file__), path=path)
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    resumed = guide(estimator="redge", checkpoint=path)
    assert torch.equal(resumed.tokens, guide(estimator="redge").tokens)


def test_a_finished_generation_returns_its_result_again(tmp_path):
    path, calls = tmp_path / "state.safetensors", []
    first = guide(checkpoint=path)
    with pytest.warns(UserWarning, match="holds this generation, finished: it is returned, nothing is generated"):
        again = guide(checkpoint=path, progress=lambda done, total: calls.append(done))
    assert torch.equal(first.tokens, again.tokens)
    assert calls == []


def other_reward(x):
    return pair_reward(x)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"kl_weight": 2.0}, "kl_weight"),
        ({"estimator": "redge"}, "estimator"),
        ({"num_rounds": 5}, "num_rounds"),
        ({"tokens": torch.full((2, 4), 3)}, "tokens"),
        ({"order": torch.arange(4)}, "order"),
        ({"denoiser": uniform(3)}, "denoiser"),
        ({"condition": {"label": torch.tensor([1.0])}}, "condition label"),
        ({"early_stop": EarlyStop(patience=2)}, "early_stop"),
        ({"reward": other_reward}, "reward"),
        ({"generator": seeded(5)}, "generator's seed"),
        ({"temperature": 2.0, "commit": "argmax", "threshold": 0.9}, "temperature, commit, threshold"),
    ],
)
@pytest.mark.parametrize("rounds", [2, 4])
def test_a_checkpoint_of_another_call_is_refused_by_what_differs(tmp_path, changed, named, rounds):
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        guide(checkpoint=path, progress=kill_after(rounds))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"belongs to a generation with other {named}.*; delete it or choose another"):
        guide(checkpoint=path, **changed)
    assert path.read_bytes() == before


def test_a_checkpoint_of_an_earlier_version_goes_on_and_is_still_told_apart(tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        guide(checkpoint=path, progress=kill_after(2))
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["guidance"])
    del facts["made"]
    save_file(load_file(path), path, {"guidance": json.dumps(facts)})
    assert facts["settings"] == DIGEST
    with pytest.raises(ValueError, match="belongs to a generation with other tokens, settings or estimator"):
        guide(checkpoint=path, kl_weight=2.0)
    assert torch.equal(guide(checkpoint=path).tokens, guide().tokens)


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "state.safetensors"
    guide(checkpoint=path)
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    with pytest.raises(ValueError, match=r"checkpoint .* is damaged .*; delete it to start over"):
        guide(checkpoint=path)


def test_a_checkpoint_needs_a_generator(tmp_path):
    with pytest.raises(ValueError, match="checkpoint needs generator="):
        guide(checkpoint=tmp_path / "state.safetensors", generator=None)
