"""No mode trains nothing: every module passes a gradient to its logits in every mode, or says that it does not."""

import itertools

import pytest
import torch
from transformers import Wav2Vec2Config

from catreparam.nn import (
    CategoricalBottleneck,
    GumbelVectorQuantizer,
    TopKRouter,
    VectorQuantizer,
    Wav2Vec2GumbelVectorQuantizer,
)
from methods import REPARAMETERISED, seeded

FEATURES = torch.randn(4, 6, 8, generator=seeded(1))
UPSTREAM = torch.randn(4, 6, 8, generator=seeded(2))
CODES = Wav2Vec2Config(num_codevectors_per_group=5, codevector_dim=8, conv_dim=[8], conv_stride=[2], conv_kernel=[3])


def gradient(module, output, training=True):
    """The largest gradient that an output of the module passes to its input, and whether all are finite."""
    inputs = FEATURES.clone().requires_grad_()
    found = output(module.train(training)(inputs, generator=seeded(3)))
    assert found.requires_grad
    (found * UPSTREAM[..., : found.shape[-1]]).sum().backward()
    gradients = [inputs.grad, *(parameter.grad for parameter in module.parameters() if parameter.grad is not None)]
    assert all(bool(each.isfinite().all()) for each in gradients)
    return inputs.grad.abs().max().item()


BOTTLENECK_MODES = list(itertools.product(("sample", "argmax", "mean"), (True, False)))
ROUTER_MODES = list(itertools.product(("sample", "topk"), (True, False), ("probs", "uniform"), (True, False), (1, 3)))


@pytest.mark.parametrize("estimator", REPARAMETERISED)
@pytest.mark.parametrize(("mode", "training"), BOTTLENECK_MODES)
def test_the_bottleneck_passes_a_gradient(estimator, mode, training):
    module = CategoricalBottleneck(8, embedding_dim=8, estimator=estimator, train_mode=mode, eval_mode=mode)
    assert gradient(module, lambda x: x, training) > 1e-4


@pytest.mark.parametrize("estimator", REPARAMETERISED)
def test_the_router_passes_a_gradient(estimator):
    for mode, training, gates, normalize, k in ROUTER_MODES:
        settings = {"train_mode": mode, "eval_mode": mode, "gates": gates, "normalize": normalize}
        module = TopKRouter(8, num_experts=5, k=k, estimator=estimator, **settings)
        found = gradient(module, lambda routing: routing.weights, training)
        assert found > 1e-4, (mode, training, gates, normalize, k)


@pytest.mark.parametrize("mode", ["sample", "topk"])
def test_the_router_without_an_estimator_learns_through_its_probabilities_where_it_says_so(mode):
    for gates, normalize, k in itertools.product(("probs", "uniform"), (True, False), (1, 3)):
        module = TopKRouter(8, num_experts=5, k=k, estimator=None, train_mode=mode, gates=gates, normalize=normalize)
        routing = module(FEATURES, generator=seeded())
        learns = gates == "probs" and not (normalize and k == 1)
        found = 0.0
        if routing.weights.requires_grad:
            (routing.weights * UPSTREAM[..., :5]).sum().backward()
            found = module.projection.weight.grad.abs().max().item()
        assert (found > 1e-4) == learns, (gates, normalize, k)


@pytest.mark.parametrize("estimator", REPARAMETERISED)
@pytest.mark.parametrize("training", [True, False])
def test_the_quantisers_pass_a_gradient_while_training(estimator, training):
    quantizers = (
        (GumbelVectorQuantizer(8, 5, vq_dim=8, estimator=estimator), lambda result: result["x"]),
        (Wav2Vec2GumbelVectorQuantizer(CODES, estimator=estimator), lambda result: result[0]),
    )
    for module, output in quantizers:
        inputs = FEATURES.clone().requires_grad_()
        (output(module.train(training)(inputs, generator=seeded())) * UPSTREAM).sum().backward()
        assert (inputs.grad is not None and inputs.grad.abs().max() > 1e-4) == training
        book = next(iter(module.parameters()))  # eval mode: the codewords alone, as the documentation says
        assert book.grad.abs().max() > 1e-4
        assert "weight_proj` none" in type(module).__doc__
    assert gradient(VectorQuantizer(8, 5, estimator=estimator), lambda result: result.quantized, training) > 1e-4


def test_the_straight_through_gradient_of_top_k_is_that_of_softmax_over_the_experts_left():
    logits = torch.tensor([[0.3, 1.0, -0.5, 0.2]], dtype=torch.float64, requires_grad=True)
    module = TopKRouter(4, num_experts=4, k=2, train_mode="topk", gates="uniform", normalize=False).double()
    with torch.no_grad():
        module.projection.weight.copy_(torch.eye(4))
    upstream = torch.tensor([0.7, -1.0, 0.4, 2.0], dtype=torch.float64)
    (found,) = torch.autograd.grad((module(logits).weights * upstream).sum(), logits)
    left = logits.masked_fill(torch.tensor([False, True, False, False]), -torch.inf)
    (wanted,) = torch.autograd.grad(((logits.softmax(-1) + left.softmax(-1)) * upstream).sum(), logits)
    assert torch.allclose(found, wanted)


def check_in_float64(module, outputs):
    """gradcheck of those outputs that are smooth functions of the input."""
    inputs = torch.randn(3, 8, dtype=torch.float64, generator=seeded(4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: outputs(module.double()(x, generator=seeded())), inputs)


@pytest.mark.parametrize(("k", "gates"), [(1, "probs"), (3, "probs"), (3, "uniform")])
def test_routers_in_float64_compute_in_float64(k, gates):
    router = TopKRouter(8, num_experts=5, k=k, estimator=None, gates=gates, normalize=False)
    check_in_float64(router, lambda routing: [y for y in routing if y.requires_grad])
    routing = router(torch.zeros(3, 8, dtype=torch.float64))
    assert {y.dtype for y in routing if y.is_floating_point()} == {torch.float64}


def test_quantisers_in_float64_compute_in_float64():
    soft = GumbelVectorQuantizer(8, 5, vq_dim=8, hard=False)
    check_in_float64(soft, lambda result: (result["x"], result["prob_perplexity"]))
    check_in_float64(Wav2Vec2GumbelVectorQuantizer(CODES), lambda result: result[1])
    check_in_float64(CategoricalBottleneck(8, embedding_dim=3, train_mode="mean"), lambda x: x)
    nearest = VectorQuantizer(8, 5, kmeans_steps=0, replace_after=0)
    check_in_float64(nearest, lambda result: result.commitment_loss)
