"""torch.compile(fullgraph=True) and torch.export take every reparameterised estimator as it is."""

import pytest
import torch

from catreparam import ESTIMATORS, make_estimator
from methods import REPARAMETERISED


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_compile_fullgraph_traces_forward_and_backward(name):
    weight = torch.arange(4.0)

    def loss(logits):
        return (ESTIMATORS[name](logits) * weight).sum(-1) ** 2

    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wanted = loss(logits)
        (wanted_gradient,) = torch.autograd.grad(wanted.sum(), logits)
        torch.manual_seed(0)
        found = torch.compile(loss, fullgraph=True, backend="aot_eager")(logits)
        (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert torch.equal(found, wanted)
    assert torch.allclose(gradient, wanted_gradient, atol=1e-6)


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_export_keeps_the_batch_axis_dynamic(name):
    class Sampler(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.estimator = make_estimator(name)

        def forward(self, logits):
            return self.estimator(logits)

    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(Sampler(), (torch.zeros(4, 3),), dynamic_shapes={"logits": {0: batch}})
    x = program.module()(torch.zeros(9, 3))
    assert x.shape == (9, 3)
    assert bool((x.sum(-1) == 1).all())
