"""Equal noise, equal hard sample, equal grid: the numbers of the published implementations."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import catreparam
from catreparam.kernels import dispatch

FIXTURES = Path(__file__).parent / "fixtures"
CASES = json.loads((FIXTURES / "redge_parity.json").read_text())["cases"]
TENSORS = load_file(FIXTURES / "redge_parity.safetensors")
TOLERANCE = 3e-3  # the reference starts at alpha = 1e-4 instead of 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
@pytest.mark.parametrize("name", ["redge", "redge_cov", "reindge"])
def test_value_and_gradient_equal_the_reference(name, case):
    key = case["case"].split(".")[0]
    alphas = [1.0, *torch.linspace(1 - case["t_1"], 1e-4, case["n_steps"] - 1).tolist()]
    schedule = catreparam.NoiseSchedule.from_alphas(alphas)
    assert schedule.num_steps == case["n_steps"] - 1
    logits = TENSORS[f"{key}.logits"].clone().requires_grad_()
    surrogate = getattr(catreparam, f"{name}_surrogate")(
        logits, noise=TENSORS[f"{key}.noise"], x=TENSORS[f"{key}.x0"], schedule=schedule
    )
    (gradient,) = torch.autograd.grad((surrogate * TENSORS[f"{key}.upstream"]).sum(), logits)
    wanted = TENSORS[f"{case['case']}.{name}.grad"]
    assert (gradient - wanted).abs().max() < TOLERANCE * wanted.abs().max()
    if name != "reindge":
        assert (surrogate - TENSORS[f"{case['case']}.{name}.soft"]).abs().max() < TOLERANCE


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
@pytest.mark.parametrize("num_classes", [2, 5, 40])
def test_reinmax_equals_its_authors_package(temperature, num_classes):
    published = pytest.importorskip("reinmax", reason="pip install reinmax")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, num_classes, generator=generator).requires_grad_()
    upstream = torch.randn(50, num_classes, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, _ = published.reinmax(logits, temperature)
    (wanted,) = torch.autograd.grad((x * upstream).sum(), logits)
    surrogate = catreparam.reinmax_surrogate(logits, x=x.detach(), temperature=temperature)
    (gradient,) = torch.autograd.grad((surrogate * upstream).sum(), logits)
    assert (gradient - wanted).abs().max() < 1e-5


def test_gumbel_softmax_equals_torch_on_the_same_noise(monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "naive")  # torch's noise, not the kernels'
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    upstream = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        wanted = torch.nn.functional.gumbel_softmax(logits, tau=0.7, hard=True)
        torch.manual_seed(3)
        found = catreparam.gumbel_softmax(logits, temperature=0.7)
    assert torch.equal(found, wanted.round())
    gradients = [torch.autograd.grad((x * upstream).sum(), logits)[0] for x in (found, wanted)]
    assert torch.allclose(*gradients, atol=1e-6)
    assert gradients[0].abs().max() > 0.01
