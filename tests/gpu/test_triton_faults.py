"""Rows that are not valid, and seeds, in the Triton kernels: on a GPU, else interpreted, as `test_triton.py` says."""

import pytest
import test_triton
import torch
from test_triton import DEVICE, ON_GPU, SETTINGS, THREE, seed_of

import catreparam
from catreparam.kernels.triton import autograd as triton_autograd
from catreparam.kernels.triton import launch as triton_launch
from devices import as_device
from methods import setting_for
from test_kernels_compiled import label

pytestmark = test_triton.pytestmark
BAD = [(torch.nan, "NaN", 3), (torch.inf, r"\+inf", 2), (-torch.inf, "1 row.* no class", 0)]


def with_bad_rows(bad, rows=50, classes=3):
    logits = torch.randn(rows, classes, device=DEVICE)
    logits[17, 0 if bad > -torch.inf or bad != bad else slice(None)] = bad
    return logits


@pytest.mark.skipif(ON_GPU, reason="there is a GPU: its errors come later, see test_cuda.py")
@pytest.mark.parametrize(("bad", "message", "kind"), BAD)
def test_invalid_rows_raise_the_usual_error(bad, message, kind):
    with pytest.raises(ValueError, match=message):
        triton_autograd.sample(setting_for("redge", THREE), with_bad_rows(bad))


@pytest.mark.parametrize(("bad", "message", "kind"), BAD)
@pytest.mark.parametrize("setting", [SETTINGS[i] for i in (0, 1, 2, 3, 4, 6, 9, 12, 15, 18, 19)], ids=label)
def test_invalid_rows_are_nan_both_ways_and_touch_no_other(setting, bad, message, kind):
    logits, flags = with_bad_rows(bad), torch.zeros(4, dtype=torch.int32, device=DEVICE)
    upstream, others = torch.randn_like(logits), torch.arange(50, device=DEVICE) != 17
    good = torch.where(others[:, None], logits, 0.0)
    sample = triton_launch.forward(setting, logits, seed_of(6), flags=flags)
    gradient = triton_launch.backward(setting, logits, upstream, seed_of(6))
    assert flags.cpu().nonzero().flatten().tolist() == [kind]
    assert sample[17].isnan().all()
    assert gradient[17].isnan().all()
    assert torch.equal(sample[others], triton_launch.forward(setting, good, seed_of(6), flags=flags)[others])
    assert torch.equal(gradient[others], triton_launch.backward(setting, good, upstream, seed_of(6))[others])
    assert flags.sum().item() == 1  # good rows write nothing, and wipe nothing out


@pytest.fixture
def device():
    with as_device() as found:
        yield found


@pytest.mark.skipif(ON_GPU, reason="there is a GPU: test_cuda.py has its faults")
def test_a_later_call_or_backward_pass_raises_and_none_reads(device):
    setting, good = setting_for("redge", THREE), with_bad_rows(0.0)
    x = triton_autograd.sample(setting, with_bad_rows(torch.nan).requires_grad_())
    assert x[17].isnan().all()
    assert x[:17].sum() == 17
    triton_autograd.sample(setting, good)  # nothing is known yet
    device.work()
    with pytest.raises(ValueError, match=r"logits hold NaN.*earlier call"):
        x.sum().backward()
    triton_autograd.sample(setting, with_bad_rows(-torch.inf))
    device.work()
    with pytest.raises(ValueError, match=r"no class.*earlier call"):
        triton_autograd.sample(setting, good)
    assert device.waited == 0


@pytest.mark.skipif(ON_GPU, reason="there is a GPU: test_cuda.py has its faults")
def test_modes_of_validation(device):
    setting, bad = setting_for("reinmax"), with_bad_rows(torch.inf)
    try:
        catreparam.set_validation("immediate")
        with pytest.raises(ValueError, match=r"logits hold \+inf; only finite values and -inf .* are legal$"):
            triton_autograd.sample(setting, bad)
        device.capturing = True  # as the operations of a graph, at every replay
        assert triton_autograd.sample(setting, bad)[17].isnan().all()
        device.capturing = False
        catreparam.set_validation(False)
        assert triton_autograd.sample(setting, bad)[17].isnan().all()
        assert device.copies == 0
    finally:
        catreparam.set_validation(True)
    catreparam.check_pending()
    device.capturing = True
    triton_autograd.sample(setting, bad)
    device.capturing = False
    with pytest.raises(ValueError, match=r"\+inf"):
        catreparam.check_pending()


def test_a_seed_may_be_a_number_or_lie_on_the_device():
    logits, seed = torch.randn(20, 5, device=DEVICE), 2**62 + 12345
    for setting in (SETTINGS[1], SETTINGS[6], SETTINGS[18]):
        for run in (
            lambda seed, setting=setting: triton_launch.forward(setting, logits, seed),
            lambda seed, setting=setting: triton_launch.backward(setting, logits, logits, seed),
            lambda seed, setting=setting: triton_launch.replay(setting, logits, seed),
        ):
            assert torch.equal(run(seed), run(seed_of(seed)))
            assert not torch.equal(run(seed), run(seed + 1))
