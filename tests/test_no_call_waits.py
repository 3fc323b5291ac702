"""Nothing waits for a device unasked: no estimator, module or loop reads a value back from it."""

import pytest
import torch

import catreparam as c
from devices import NoReadBacks, as_device
from methods import ALL, loss_of, seeded

BAD = {"NaN": torch.nan, "inf": torch.inf, "no class": -torch.inf}
MIXES = {"reinmax_rloo"}  # fits a weight on the whole batch: the other rows lose one that had a say


@pytest.fixture(params=["naive", "torch"])
def device(request):
    with as_device(request.param) as found:
        yield found


def problem(bad=None, dtype=torch.float32):
    logits = torch.randn(5, 3, 4, generator=seeded(), dtype=dtype)
    if bad is not None:
        logits[1, :, 0 if bad > -torch.inf or bad != bad else slice(None)] = bad
    return logits.requires_grad_()


def run(name, logits):
    loss = loss_of(name, logits, generator=seeded(1))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach(), gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_no_estimator_reads_a_value_back(name, dtype, device):
    logits = problem(dtype=dtype)
    with NoReadBacks():
        run(name, logits)
    assert device.waited == 0


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ALL)
def test_invalid_rows_give_nan_and_others_what_they_always_do(name, bad, device):
    good, others = problem(), torch.arange(5) != 1
    loss, gradient = run(name, problem(BAD[bad]))
    wanted_loss, wanted = run(name, good)
    assert loss[1].isnan().all()
    assert gradient[1].isnan().all()
    assert torch.equal(loss[others], wanted_loss[others])
    assert torch.equal(gradient[others], wanted[others]) or (name in MIXES and gradient[others].isfinite().all())
    with pytest.raises(ValueError, match=bad):
        c.check_pending()
