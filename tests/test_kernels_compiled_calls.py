"""The compiled kernels in calls of other kinds: second derivatives, transforms, custom operators, forks."""

import subprocess
import sys

import pytest
import torch

from catreparam.kernels import dispatch, ops
from catreparam.kernels.autograd import attach, replayed
from catreparam.kernels.compiled import autograd as compiled
from catreparam.kernels.compiled import library
from catreparam.kernels.naive.sampling import naive_surrogate
from catreparam.noise_schedule import make_schedule
from methods import setting_for

pytestmark = pytest.mark.skipif(not library.BUILT, reason="the compiled kernels were not built (no C++ compiler)")

FOUR_STEPS = make_schedule("alpha", 4, 0.5).lambdas


def test_second_derivatives_are_the_naive_twins():
    for setting in (
        setting_for("gumbel_softmax", temperature=0.7, hard=False),
        setting_for("redge", FOUR_STEPS),
        setting_for("reindge", FOUR_STEPS, weight=1.0),
    ):
        logits = torch.randn(4, 6, requires_grad=True)
        upstream = torch.randn(4, 6, requires_grad=True)
        noise, _ = replayed(compiled.PASSES, setting, logits.detach(), 0)
        sample = attach(compiled.PASSES, setting, logits, 0, noise, torch.eye(6)[:4].contiguous())
        gradient = torch.autograd.grad(sample, logits, upstream, create_graph=True)[0]
        surrogate = naive_surrogate(setting, logits, noise, torch.eye(6)[:4])
        wanted = torch.autograd.grad(surrogate, logits, upstream, create_graph=True)[0]
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)
        seconds = [torch.autograd.grad(g.pow(2).sum(), (logits, upstream)) for g in (gradient, wanted)]
        for a, b in zip(*seconds, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_compile_export_vmap_and_grad_see_one_op(monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "compiled")

    def draw(logits):
        return dispatch.sample(logits, None, -1, None, setting_for("redge", FOUR_STEPS))

    logits, weight = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5)
    sample = torch.compile(draw, fullgraph=True, backend="aot_eager")(logits)
    (sample * weight).sum().backward()
    assert (sample.sum(-1) == 1).all()
    assert logits.grad.abs().sum() > 0
    batch = torch.randn(3, 6, 5)
    assert (torch.func.vmap(draw, randomness="different")(batch).sum(-1) == 1).all()
    assert len(torch.func.vmap(draw, randomness="same")(torch.zeros(4, 9, 5)).unique(dim=0)) == 1
    gradient = torch.func.vmap(torch.func.grad(lambda at: (draw(at) * weight).sum()), randomness="different")(batch)
    assert gradient.shape == batch.shape
    assert gradient.abs().sum() > 0
    second = torch.func.grad(lambda at: torch.func.grad(lambda b: (draw(b) * weight).sum())(at).pow(2).sum())
    assert second(batch[0]).abs().sum() > 0


def test_opcheck_of_the_custom_op():
    arguments = (
        torch.randn(4, 5, requires_grad=True),
        torch.tensor(3),
        "redge",
        [0.0, 0.5, 1.0],
        "euler",
        True,
        1,
        1.0,
        0.0,
    )
    torch.library.opcheck(ops.sample_op, arguments)


@pytest.mark.parametrize(
    "first", ["from catreparam.kernels.compiled import library", "import torch"]
)  # loaded before or after
def test_a_forked_child_neither_hangs_nor_differs(first):
    code = f"""
import os, sys, torch
{first}
torch.set_num_threads(3)
logits = torch.zeros(100_000, 10)
(logits + 1).exp()  # torch's threads are up: they will be missing in the child

def draw():
    from catreparam.kernels.compiled import library
    from catreparam.kernels.methods import METHODS
    from catreparam.kernels.settings import Setting
    # no torch operation: it would hang
    return library.forward(Setting(METHODS["redge"]), logits, 1)[0].numpy().tobytes()

reader, writer = os.pipe()
child = os.fork()
if child == 0:
    with os.fdopen(writer, "wb") as file:
        file.write(draw())
    os._exit(0)
os.close(writer)
with os.fdopen(reader, "rb") as file:
    drawn = file.read()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or drawn != draw())
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
