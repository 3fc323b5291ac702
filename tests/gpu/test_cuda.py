"""Every estimator on a CUDA device: skipped, with the reason, where there is none."""

import time
from contextlib import contextmanager

import pytest
import torch

import catreparam
from catreparam import pending
from catreparam.guidance import optimize_logits
from catreparam.kernels import dispatch
from catreparam.nn import CategoricalBottleneck, TopKRouter, VectorQuantizer
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


PATHS = ["triton", "torch", "naive"]


@contextmanager
def no_waiting():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ALL)
def test_no_estimator_waits_for_the_device(name, path, dtype):
    logits = torch.randn(6, 4, device="cuda", dtype=dtype, requires_grad=True)
    with dispatch.using(path):
        loss_of(name, logits).sum().backward()  # kernels are built, memory is taken
        with no_waiting():
            for _ in range(3):
                loss_of(name, logits).sum().backward()
    catreparam.check_pending()


MODULES = {
    "bottleneck": lambda: CategoricalBottleneck(4, embedding_dim=2),
    "router": lambda: TopKRouter(4, num_experts=3, k=2, capacity_factor=1.0),
    "quantizer": lambda: VectorQuantizer(4, num_codes=8, replace_after=2),
}


@pytest.mark.parametrize("name", MODULES)
def test_no_module_waits_for_the_device(name):
    module, x = MODULES[name]().cuda(), torch.randn(50, 4, device="cuda")
    for _ in range(3):
        module(x)
    with no_waiting():
        for _ in range(5):
            out = module(x)
            (out if isinstance(out, torch.Tensor) else out[0]).sum().backward()


def test_a_step_of_guidance_does_not_wait_for_the_device():
    def reward(x):
        if len(steps) in (2, 4):
            torch.cuda.set_sync_debug_mode("error" if len(steps) == 2 else "default")
        steps.append(1)
        return x[..., 0].sum(-1)

    steps = []
    try:
        optimize_logits(torch.zeros(2, 3, 4, device="cuda"), reward, estimator="redge", num_steps=6)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("bad", "message"), [(torch.nan, "NaN"), (torch.inf, r"\+inf"), (-torch.inf, "no class")])
def test_invalid_rows_are_nan_and_said_later(bad, message, path):
    logits = torch.zeros(50, 3, device="cuda")
    logits[17, 0 if bad > -torch.inf or bad != bad else slice(None)] = bad
    logits.requires_grad_()
    with dispatch.using(path):
        x = catreparam.redge(logits)
        (x * torch.randn_like(x)).sum().backward()
    assert x[17].isnan().all()
    assert logits.grad[17].isnan().all()
    others = torch.arange(50, device="cuda") != 17
    assert x[others].isfinite().all()
    assert logits.grad[others].isfinite().all()
    with pytest.raises(ValueError, match=message):
        catreparam.check_pending("cuda")
    catreparam.check_pending("cuda")
    time.sleep(2 * pending.REST)
    catreparam.redge(logits.detach())
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match=message):
        catreparam.redge(torch.zeros(2, 3, device="cuda"))


def test_the_replay_of_a_graph_is_told_of():
    logits, graph = torch.zeros(50, 3, device="cuda"), torch.cuda.CUDAGraph()
    for _ in range(3):
        catreparam.redge(logits)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        x = catreparam.redge(logits)
    graph.replay()
    first = x.clone()
    graph.replay()
    assert not torch.equal(first, x)  # a seed of its own for every replay
    catreparam.check_pending()
    logits[3] = torch.nan
    graph.replay()
    assert x[3].isnan().all()
    with pytest.raises(ValueError, match="NaN"):
        catreparam.check_pending()


def test_a_generator_moves_on_and_repeats():
    generator, logits = torch.Generator(device="cuda").manual_seed(5), torch.zeros(200, 5, device="cuda")
    first, second = (catreparam.redge(logits, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, catreparam.redge(logits, generator=generator.manual_seed(5)))
    state = generator.get_state()
    third = catreparam.redge(logits, generator=generator)
    generator.set_state(state)
    assert torch.equal(third, catreparam.redge(logits, generator=generator))
