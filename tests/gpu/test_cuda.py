"""Every estimator on a CUDA device: skipped, with the reason, where there is none."""

import pytest
import torch

from methods import ALL, loss_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.mark.parametrize("name", ALL)
def test_result_stays_on_the_device_and_repeats_with_its_generator(name):
    def run():
        generator = torch.Generator(device="cuda").manual_seed(0)
        logits = torch.linspace(-1, 1, 24, device="cuda").reshape(6, 4).requires_grad_()
        loss = loss_of(name, logits, generator=generator)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        return loss.detach(), gradient

    first, second = run(), run()
    assert all(part.device.type == "cuda" for part in first)
    assert all(bool(torch.isfinite(part).all()) for part in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_generator_of_the_wrong_device_is_named():
    with pytest.raises(ValueError, match="generator lives on cpu but logits on cuda"):
        loss_of("redge", torch.zeros(3, device="cuda"), generator=torch.Generator())
