"""What every estimator promises, whatever its mathematics."""

import copy
import math
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from catreparam import ESTIMATORS, expectation, make_estimator
from methods import ALL, OUTSIDE_TRANSFORMS, RELAXED, REPARAMETERISED, loss_of, samples_needed, seeded, smooth_loss

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def leaf(*shape: int, dtype=torch.float32, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype).requires_grad_()


def assert_one_hot(x: torch.Tensor, dim: int = -1) -> None:
    assert bool(((x == 0) | (x == 1)).all())
    assert bool((x.float().sum(dim) == 1).all())


@pytest.mark.parametrize("name", REPARAMETERISED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sample_is_one_hot_in_the_shape_dtype_and_device_of_the_logits(name, dtype):
    logits = leaf(5, 3, 7, dtype=dtype)
    x = ESTIMATORS[name](logits, generator=seeded())
    assert (x.shape, x.dtype, x.device) == (logits.shape, dtype, logits.device)
    assert_one_hot(x.detach())
    x.float().square().sum().backward()
    assert logits.grad.dtype == dtype
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("name", RELAXED)
def test_relaxed_sample_lies_in_the_simplex(name):
    x = ESTIMATORS[name](leaf(6, 5), hard=False, generator=seeded())
    assert bool((x >= 0).all())
    assert torch.allclose(x.sum(-1), torch.ones(6))
    assert not bool(((x == 0) | (x == 1)).all())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_and_gradient_keep_the_dtype(name, dtype):
    logits = leaf(4, 3, dtype=dtype)
    loss = loss_of(name, logits, generator=seeded())
    assert (loss.shape, loss.dtype) == ((4,), dtype)
    loss.float().sum().backward()
    assert logits.grad.dtype == dtype
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("name", ALL)
def test_equal_generators_give_equal_results_and_different_ones_do_not(name):
    def run(seed):
        logits = leaf(64, 5)
        loss = loss_of(name, logits, generator=seeded(seed))
        return torch.cat([loss.detach(), torch.autograd.grad(loss.sum(), logits)[0].flatten()])

    assert torch.equal(run(3), run(3))
    assert name == "exact" or not torch.equal(run(3), run(4))


@pytest.mark.parametrize("name", ALL)
def test_an_explicit_generator_leaves_the_global_one_alone(name):
    before = torch.get_rng_state()
    loss_of(name, leaf(4, 3), generator=seeded()).sum().backward()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ALL)
def test_no_grad_gives_the_same_value_without_a_graph(name):
    logits = leaf(8, 4)
    value = loss_of(name, logits, generator=seeded())
    with torch.no_grad():
        bare = loss_of(name, logits, generator=seeded())
    assert torch.equal(value.detach(), bare)
    assert not bare.requires_grad


@pytest.mark.parametrize("name", ALL)
def test_logits_without_requires_grad_are_legal(name):
    loss = loss_of(name, leaf(8, 4).detach(), generator=seeded())
    assert bool(torch.isfinite(loss).all())


@pytest.mark.parametrize("name", ALL)
def test_backward_twice_through_a_retained_graph_gives_the_same_gradient(name):
    logits = leaf(6, 4)
    loss = loss_of(name, logits, generator=seeded()).sum()
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(loss, logits)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", [name for name in ALL if name != "reinmax_rloo"])  # which refuses
def test_double_backward_is_finite(name):
    logits = leaf(6, 4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(loss_of(name, logits, generator=seeded()).sum(), logits, create_graph=True)
    if gradient.requires_grad:  # constant gradients (score functions with fixed coefficients) end here
        (second,) = torch.autograd.grad(gradient.square().sum(), logits, allow_unused=True)
        assert second is None or bool(torch.isfinite(second).all())


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_activation_checkpointing_gives_the_gradient_of_a_plain_run(name):
    logits, weight = leaf(6, 4), leaf(4, seed=2)

    def run(wrapped):
        torch.manual_seed(5)  # checkpoint replays the global generator

        def block(logits):
            return (ESTIMATORS[name](logits) * weight).sum(-1) ** 2

        loss = checkpoint(block, logits, use_reentrant=False) if wrapped else block(logits)
        return torch.autograd.grad(loss.sum(), (logits, weight))

    with torch.random.fork_rng():
        for plain, saved in zip(run(False), run(True), strict=True):
            assert torch.equal(plain, saved)


@pytest.mark.parametrize("name", [name for name in ALL if name not in OUTSIDE_TRANSFORMS])
def test_vmap_with_different_randomness_draws_every_row_by_itself(name):
    logits = torch.zeros(200, 6)
    estimator = make_estimator(name)
    loss = torch.vmap(lambda row: loss_of(estimator, row), randomness="different")(logits)
    assert loss.shape == (200,)
    assert name == "exact" or loss.unique().numel() > 1


@pytest.mark.parametrize("name", [name for name in ALL if name not in OUTSIDE_TRANSFORMS])
def test_func_grad_gives_the_gradient_of_backward(name):
    logits = leaf(6, 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (wanted,) = torch.autograd.grad(loss_of(name, logits).sum(), logits)
        torch.manual_seed(0)
        found = torch.func.grad(lambda logits: loss_of(name, logits).sum())(logits.detach())
    assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("name", OUTSIDE_TRANSFORMS)
def test_a_method_that_no_function_transform_takes_says_what_to_do(name):
    with pytest.raises(RuntimeError, match=f"{name}.* use "):
        torch.func.grad(lambda logits: loss_of(name, logits).sum())(torch.zeros(4, 3))


@pytest.mark.parametrize("name", ALL)
def test_one_class_is_certain_and_has_no_gradient(name):
    logits = leaf(5, 1)
    loss = loss_of(name, logits, generator=seeded())
    assert torch.allclose(loss, torch.full((5,), 2.0))
    loss.sum().backward()
    assert bool((logits.grad == 0).all())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(0, 3), (4, 0, 3), (1, 1, 3), (1, 3, 1), (3,), (2, 1, 1, 2)])
def test_empty_and_size_one_axes_are_legal(name, shape):
    logits = leaf(*shape)
    loss = loss_of(name, logits, generator=seeded())
    assert loss.shape == shape[:-1]
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.shape == shape
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("name", [name for name in ALL if name != "arsm"])
def test_a_hundred_thousand_classes_need_no_square_memory(name):
    logits = leaf(2, 100_000)
    if name == "exact":  # memory is fine, but it evaluates the objective once per class
        logits = leaf(2, 2_000)
    loss = loss_of(make_estimator(name, chunk_size=64) if name == "exact" else name, logits, generator=seeded())
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert bool(torch.isfinite(gradient).all())


def test_arsm_refuses_classes_whose_pairs_it_could_not_evaluate():
    with pytest.raises(ValueError, match="at most 64 classes, got 100"):
        loss_of("arsm", torch.zeros(100))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("way", ["mask", "-inf", "both"])
def test_forbidden_classes_are_never_drawn_and_get_zero_gradient(name, way):
    allowed = torch.tensor([True, False, True, True, False])
    logits = leaf(400, 5).detach()
    if way != "mask":
        logits = logits.masked_fill(~allowed, -torch.inf)
    logits.requires_grad_()
    mask = None if way == "-inf" else allowed
    seen = []

    def objective(x):
        seen.append(x.detach())
        return smooth_loss(x)

    loss = loss_of(name, logits, generator=seeded(), mask=mask, objective=objective)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient[:, ~allowed] == 0).all())
    assert name == "exact" or all(bool((x[..., ~allowed] == 0).all()) for x in seen)


@pytest.mark.parametrize("name", ALL)
def test_a_single_allowed_class_is_certain(name):
    logits = torch.tensor([[-torch.inf, 2.0, -torch.inf]], requires_grad=True)
    loss = loss_of(name, logits, generator=seeded())
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.allclose(loss, smooth_loss(torch.tensor([[0.0, 1.0, 0.0]])))
    assert torch.allclose(gradient, torch.zeros(1, 3), atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_logits_give_finite_gradients(name, size):
    logits = torch.tensor([[size, 0.0, size / 2], [size, size, 0.0]], requires_grad=True)
    loss = loss_of(name, logits, generator=seeded())
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert bool(torch.isfinite(loss).all() and torch.isfinite(gradient).all())


@pytest.mark.parametrize("name", ALL)
def test_layout_in_memory_does_not_matter(name):
    dense = leaf(6, 4).detach()
    strided = dense.t().contiguous().t()
    assert not strided.is_contiguous()
    losses = [loss_of(name, logits, generator=seeded()) for logits in (dense, strided)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_dim_names_the_class_axis(name):
    logits = leaf(3, 5, 4)
    last = ESTIMATORS[name](logits.movedim(1, -1), generator=seeded())
    middle = ESTIMATORS[name](logits, dim=1, generator=seeded())
    assert torch.equal(middle.movedim(1, -1), last)
    middle.square().sum().backward()
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("name", ALL)
def test_expectation_takes_the_class_axis_too(name):
    logits = leaf(4, 3)
    wanted = loss_of(name, logits, generator=seeded())
    found = expectation(
        lambda x: smooth_loss(x.t()),
        logits.t(),
        estimator=make_estimator(name),
        dim=0,
        num_samples=samples_needed(name),
        generator=seeded(),
    )
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ALL)
def test_estimators_pickle_copy_and_print_themselves(name):
    made = make_estimator(name)
    for twin in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert twin.name == name
        assert torch.equal(*(loss_of_made(e, samples_needed(name)) for e in (made, twin)))
    assert repr(made).startswith(f"make_estimator('{name}'")


def loss_of_made(estimator, num_samples):
    return expectation(smooth_loss, torch.zeros(9, 3), estimator=estimator, num_samples=num_samples, generator=seeded())


@pytest.mark.parametrize("name", REPARAMETERISED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_no_nan_in_ten_million_draws(name, dtype):
    # 1e7 draws in all: the noise and the maths are float32 for either dtype, so each method takes its share
    count = math.ceil(1e7 / (2 * len(REPARAMETERISED)))
    x = ESTIMATORS[name](torch.zeros(count, 2, dtype=dtype), generator=seeded())
    assert not bool(torch.isnan(x).any())
    assert bool((x.sum(-1) == 1).all())
