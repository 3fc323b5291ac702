"""torch.compile(fullgraph=True) takes all but relax and reinmax_rloo; torch.export all reparameterised ones."""

import pytest
import torch

from catreparam import ESTIMATORS, expectation, make_estimator
from methods import ALL, OUTSIDE_TRANSFORMS, REPARAMETERISED, samples_needed, smooth_loss


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


@pytest.mark.parametrize("name", [name for name in ALL if name not in OUTSIDE_TRANSFORMS])
def test_compile_fullgraph_traces_expectation(name):
    def loss(logits):
        return expectation(smooth_loss, logits, estimator=name, num_samples=samples_needed(name))

    # aot_eager is quick, but gives two equal random operations of one graph the same noise; inductor does not
    several_draws = name in ("rloo", "arsm", "rebar")
    options = {"fallback_random": True} if several_draws else None
    backend = "inductor" if several_draws else "aot_eager"
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (wanted,) = torch.autograd.grad(loss(logits).sum(), logits)
        torch.manual_seed(0)
        found = torch.compile(loss, fullgraph=True, backend=backend, options=options)(logits)
        (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert torch.allclose(gradient, wanted, atol=1e-5)


def test_relax_is_not_for_fullgraph_and_torch_says_why():
    estimator = make_estimator("relax")
    compiled = torch.compile(
        lambda logits: expectation(smooth_loss, logits, estimator=estimator), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"autograd\.grad"):
        compiled(torch.zeros(4, 3, requires_grad=True))


def test_reinmax_rloo_is_not_for_fullgraph_and_breaks_the_graph_otherwise():
    def loss(logits):
        return expectation(smooth_loss, logits, estimator="reinmax_rloo", num_samples=2, generator=generator)

    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    (wanted,) = torch.autograd.grad(loss(logits).sum(), logits)
    generator = torch.Generator().manual_seed(1)
    (found,) = torch.autograd.grad(torch.compile(loss, backend="aot_eager")(logits).sum(), logits)
    torch.testing.assert_close(found, wanted)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(loss, fullgraph=True, backend="aot_eager")(logits)


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
