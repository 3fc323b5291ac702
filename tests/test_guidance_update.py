"""The pass behind a step of guidance: compiled and in torch the same; hard samples found; memory handed on."""

import copy
import dataclasses
import math
import pickle

import pytest
import torch

from catreparam import make_estimator
from catreparam.guidance import optimize_logits
from catreparam.guidance.rewards import hot_tokens, is_hard
from catreparam.guidance.update import TorchUpdate, update_of
from catreparam.kernels import dispatch
from catreparam.kernels.compiled import library, node
from catreparam.kernels.compiled.update import Update, serves
from methods import seeded

SHAPES = [(1, 3, 1), (2, 5, 2), (3, 7, 9), (1, 9, 16), (2, 6, 17), (2, 3, 33), (1, 2, 100), (2, 40, 1000)]
SETS = ["generic", "avx2", "avx512"]

needs_kernels = pytest.mark.skipif(not library.BUILT, reason="no compiled kernels")


@pytest.fixture(params=SETS)
def instruction_set(request):
    """Each of the instruction sets that this machine has."""
    before = library.instruction_set()
    if not library.choose_instruction_set(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield
    library.choose_instruction_set(before)


def problem(shape, seed=0):
    """Log prior with forbidden tokens, logits beside it, gradients of four steps that are zero where forbidden."""
    generator = seeded(seed)
    log_prior = torch.randn(shape, generator=generator)
    if shape[-1] > 2:
        forbidden = torch.rand(shape, generator=generator) < 0.3
        forbidden[..., 0] = False
        log_prior = log_prior.masked_fill(forbidden, -math.inf)
    log_prior = torch.log_softmax(log_prior, -1)
    logits = log_prior + torch.randn(shape, generator=generator)
    gradients = torch.randn(4, *shape, generator=generator).masked_fill(log_prior == -math.inf, 0.0)
    return logits, log_prior, gradients


def steps(kind, shape, active=None, clip=None, at_once=False):
    logits, log_prior, gradients = problem(shape)
    update = kind(logits.clone().requires_grad_(), log_prior, active)
    seen = []
    for count, gradient in enumerate(gradients):
        if at_once:
            seen.append(update.step(gradient.clone(), 0.7, 0.1 / (1 + count)))
        else:
            now = gradient.clone()
            seen.append(update.add_divergence(now, 0.7))
            update.move(now.clone(), 0.1 / (1 + count), clip)
            seen[-1] = (*seen[-1], now)
    return update.logits.detach(), seen


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", ["plain", "at once", "active", "clipped"])
def test_compiled_and_torch_move_logits_alike(shape, how, instruction_set):
    active = torch.rand(*shape[:2], 1, generator=seeded(3)) < 0.6 if how == "active" else None
    clip = torch.rand(shape[0], generator=seeded(4)) if how == "clipped" else None
    wanted, seen = steps(TorchUpdate, shape, active, clip)
    found, seen_here = steps(Update, shape, active, clip, at_once=how == "at once")
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-4)  # Adam divides by small gradients
    assert torch.equal(torch.isneginf(found), torch.isneginf(problem(shape)[1]))
    for here, there in zip(seen_here, seen, strict=True):  # KL, entropy, norm, whether finite, gradient
        for left, right in zip(map(torch.as_tensor, here), map(torch.as_tensor, there), strict=False):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@needs_kernels
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(2, 3, 9), (1, 4, 40)])
def test_a_gradient_that_is_not_finite_is_noticed(value, shape):
    for kind in (TorchUpdate, Update):
        logits, log_prior, gradients = problem(shape)
        gradients[0][-1, -1, 0] = value
        assert not kind(logits.requires_grad_(), log_prior, None).add_divergence(gradients[0], 1.0).is_finite


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
def test_the_pass_repeats_itself_at_any_number_of_threads(threads):
    before = torch.get_num_threads()
    first, _ = steps(Update, (4, 600, 50), at_once=True)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(steps(Update, (4, 600, 50), at_once=True)[0], first)
    finally:
        torch.set_num_threads(before)


@needs_kernels
def test_logits_that_a_graph_has_saved_are_not_moved_unnoticed():
    logits, log_prior, gradients = problem((2, 3, 9))
    leaf = logits.requires_grad_()
    loss = leaf.exp().square().sum()
    Update(leaf, log_prior, None).step(gradients[0], 1.0, 0.1)
    kept = (leaf * leaf.detach()).sum()
    Update(leaf, log_prior, None).step(gradients[1], 1.0, 0.1)
    loss.backward()  # of its own values
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_other_tensors_take_the_twin():
    logits, log_prior, _ = problem((2, 3, 9))
    kinds = {
        "usual": (logits, Update if library.BUILT else TorchUpdate),
        "wide": (logits.double(), TorchUpdate),
        "transposed": (logits.mT.contiguous().mT, TorchUpdate),
    }
    for name, (given, kind) in kinds.items():
        assert type(update_of(given, log_prior.to(given.dtype), None)) is kind, name


def test_the_path_that_is_asked_for_is_taken():
    logits, log_prior, _ = problem((2, 3, 9))
    with dispatch.using("naive"):
        assert type(update_of(logits, log_prior, None)) is TorchUpdate


# Hard samples


@needs_kernels
@pytest.mark.parametrize("classes", [1, 2, 5, 16, 17, 64, 1000])
@pytest.mark.parametrize("wrong", ["", "two", "none", "half", "nan", "negative", "tiny", "large"])
def test_hard_rows_are_told_from_others(classes, wrong, instruction_set):
    hot = torch.randint(classes, (4, 7), generator=seeded())
    x = torch.nn.functional.one_hot(hot, classes).float()
    row = x[2, 3]
    changes = {"none": 0.0, "half": 0.5, "nan": math.nan, "negative": -1.0, "large": 2.0}
    if wrong in changes:
        row[hot[2, 3]] = changes[wrong]
    elif wrong and classes > 1:
        row[(hot[2, 3] + 1) % classes] = {"two": 1.0, "tiny": 1e-42}[wrong]
    assert serves(x)
    found = hot_tokens(x)
    assert (found is not None) == is_hard(x)
    if found is not None:
        assert torch.equal(found, hot)


def test_negative_zeros_are_zeros():
    assert hot_tokens(torch.tensor([[-0.0, 1.0, -0.0]])).tolist() == [1]


# Memory


@pytest.mark.skipif(node.MODULE is None, reason="the autograd node is not built")
@pytest.mark.parametrize("shape", [(3, 2), (5, 9), (64, 31), (4, 200), (2, 5000)])
@pytest.mark.parametrize("name", ["straight_through", "redge", "reinmax", "exact_redge", "gumbel_softmax", "redge_cov"])
def test_an_upstream_gradient_that_is_kept_is_not_written_over(name, shape):
    estimator = make_estimator(name)
    weights = torch.randn(shape, generator=seeded(1))

    def gradient(hook):
        logits = torch.randn(shape, generator=seeded(2)).requires_grad_()
        x = estimator(logits, generator=seeded(3))
        if hook is not None:
            x.register_hook(hook)
        (found,) = torch.autograd.grad((x * weights).sum(), logits)
        return found

    kept = []
    alone, held = gradient(None), gradient(kept.append)
    assert torch.equal(alone, held)
    assert torch.equal(kept[0], weights)


def test_a_result_is_copied_with_a_tilt_that_nobody_has_asked_for():
    found = optimize_logits(torch.zeros(1, 2, 3), lambda x: x[..., 0].sum(-1), estimator="straight_through")
    copies = [copy.deepcopy(found), pickle.loads(pickle.dumps(found)), dataclasses.replace(found, best_reward=None)]
    for other in copies:
        assert torch.equal(other.tilt, found.tilt)
        assert torch.equal(other.logits, found.logits)
    assert "tilt=tensor" in repr(found)
