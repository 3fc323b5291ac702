"""Logits at the ends of float32, hyperparameters at the ends of their ranges, empty batches: the right values."""

import jax
import jax.numpy as jnp
import pytest
import torch

import catreparam
import catreparam.jax as cj
from catreparam import expectation, make_estimator
from catreparam.estimators.facts import ESTIMATORS, facts_of
from catreparam.kernels import dispatch
from catreparam.kernels.compiled import library

PATHS = ["compiled", "torch", "naive"] if library.BUILT else ["torch", "naive"]
LARGEST = torch.finfo(torch.float32).max
CONTINUOUS = {
    *("temperature", "forward_temperature", "backward_temperature", "t1", "gap", "eta", "weight"),
    *("second_order_weight", "baseline"),
}


def loss_and_gradient(name, logits, path, **hyperparameters):
    leaf = logits.clone().requires_grad_()
    weights = torch.linspace(-1, 2, leaf.shape[-1])
    with dispatch.using(path):
        method = make_estimator(name, **hyperparameters)
        loss = expectation(
            lambda x: (x * weights).sum(-1) ** 2,
            leaf,
            estimator=method,
            num_samples=facts_of(name).fewest_samples,
            generator=torch.Generator().manual_seed(3),
        )
    loss.sum().backward()
    return loss.detach(), leaf.grad


def assert_same(found, wanted, what):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=lambda text: f"{what}: {text}")


def cases(classes):
    return [(name, k) for name in ESTIMATORS for k in classes if not (name == "arsm" and k > 12)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "num_classes"), cases([2, 3, 12, 130]))
def test_masks_written_as_the_least_float_are_masks(name, num_classes, path):
    logits = torch.randn(24, num_classes, generator=torch.Generator().manual_seed(0))
    logits[:, 1::2] = -torch.inf
    wanted = loss_and_gradient(name, logits, path)
    for mask in (-LARGEST, -1e30, -1e9):
        found = loss_and_gradient(name, logits.where(logits > -torch.inf, mask), path)
        assert_same(found, wanted, f"masked by {mask}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "num_classes"), cases([2, 3, 12, 130]))
def test_ties_of_any_size_are_drawn_and_differentiated_as_ties_at_zero(name, num_classes, path):
    allowed = torch.arange(num_classes) <= num_classes // 2
    ties = torch.zeros(24, num_classes).masked_fill(~allowed, -torch.inf)
    wanted = loss_and_gradient(name, ties, path)
    for size in (5000.0, 1e9, 1e30, -1e30, 3e38, -3e38):
        found = loss_and_gradient(name, torch.where(allowed, size, -torch.inf).expand(24, -1), path)
        assert_same(found, wanted, f"ties at {size}")
    found = loss_and_gradient(name, torch.where(allowed, 3e38, -3e38).expand(24, -1), path)
    assert_same(found, wanted, "ties at 3e38, masks at -3e38")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["gumbel_softmax", "decoupled_straight_through", "redge", "arsm", "rebar"])
def test_three_ties_at_1e30_are_drawn_alike(name, path):
    # the chance that a third of 3,000 draws is off by 5 standard deviations is 6e-7
    counts = torch.zeros(3)

    def objective(x):
        if bool(((x == 0) | (x == 1)).all()):
            counts.add_(x.detach().sum(0))
        return x[..., 0]

    with dispatch.using(path):
        expectation(objective, torch.full((3000, 3), 1e30), estimator=name, generator=torch.Generator().manual_seed(0))
    total = float(counts.sum())
    assert bool(((counts - total / 3).abs() < 5 * (total * 2 / 9) ** 0.5 * (4 if name == "arsm" else 1)).all()), counts


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["reinmax", "lambda_reinmax", "reindge", "exact_redge", "gumbel_softmax", "redge_cov"])
def test_logits_near_the_largest_float_give_one_hot_rows(name, path):
    logits = torch.empty(64, 7).uniform_(-1.7e38, 1.7e38, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with dispatch.using(path):
        x = getattr(catreparam, name)(logits, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, torch.nn.functional.one_hot(logits.argmax(-1), 7).float())
    x.square().sum().backward()
    assert bool(logits.grad.isfinite().all())


HYPERPARAMETERS = [(name, key) for name in ESTIMATORS for key in facts_of(name).hyperparameters if key in CONTINUOUS]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "key"), HYPERPARAMETERS)
def test_hyperparameters_are_computed_or_refused_never_nan(name, key, path):
    for num_classes in (2, 3, 12):
        logits = torch.randn(20, num_classes, generator=torch.Generator().manual_seed(0))
        logits[:6] = 0.0
        for value in (5e-40, 1.2e-38, 1e-20, 1e-8, 1e-4, 100.0, 1e10, 3e38, 1e39):
            try:
                loss, gradient = loss_and_gradient(name, logits, path, **{key: value})
            except ValueError as error:
                assert key in str(error)  # noqa: PT017 (a refusal names the hyperparameter)
                assert f"{value}" in str(error)  # noqa: PT017
            else:
                assert bool(loss.isfinite().all()), value
                assert not bool(gradient.isnan().any()), value


@pytest.mark.parametrize("name", ["gumbel_softmax", "reinmax", "gumbel_rao"])
def test_denormal_temperatures_are_refused_with_their_name(name):
    with pytest.raises(ValueError, match=r"temperature must lie within the range of float32, .*got 5e-40"):
        make_estimator(name, temperature=5e-40)
    with pytest.raises(ValueError, match="temperature"):
        getattr(cj, name)(jnp.zeros(3), key=jax.random.key(0), temperature=5e-40)


@pytest.mark.parametrize("t1", [5e-40, 1e-9])
def test_a_t1_of_next_to_nothing_is_refused(t1):
    with pytest.raises(ValueError, match=f"t1 must be at least 0.0001 and at most 1, got {t1}"):
        make_estimator("redge", t1=t1)


def empty_shapes(name):
    """Of few classes for arsm, which evaluates the objective for every pair of them."""
    return [(2, 0, 5), (0, 2), (0, 1), *([] if name == "arsm" else [(0, 130), (0, 48), (0, 600)])]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in ESTIMATORS for shape in empty_shapes(name)])
def test_empty_batches_have_empty_gradients(name, shape, path):
    noises = (1, 4) if "num_noises" in facts_of(name).hyperparameters else (None,)
    for count in noises:
        given = {} if count is None else {"num_noises": count}
        loss, gradient = loss_and_gradient(name, torch.zeros(shape), path, **given)
        assert loss.shape == shape[:-1]
        assert gradient.shape == shape


JAX_ESTIMATORS = ["straight_through", "reinmax", "lambda_reinmax", "gumbel_softmax", "gumbel_rao"]


@pytest.mark.parametrize("name", [*JAX_ESTIMATORS, "redge", "redge_cov", "reindge", "exact_redge"])
def test_jax_takes_masks_as_the_least_float_and_ties_of_any_size(name):
    def run(logits):
        method = getattr(cj, name)
        return jax.value_and_grad(
            lambda logits: (method(logits, key=jax.random.key(1)) * jnp.arange(4.0)).sum(-1).sum()
        )(logits)

    rows = jnp.asarray(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)).numpy())
    for wanted, found in (
        (rows.at[:, 1].set(-jnp.inf), rows.at[:, 1].set(-LARGEST)),
        (jnp.zeros((16, 4)), jnp.full((16, 4), 1e30)),
    ):
        for a, b in zip(run(wanted), run(found), strict=True):
            assert jnp.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("path", ["torch", "naive"])
@pytest.mark.parametrize("name", ["redge_cov", "exact_redge", "gumbel_softmax"])
def test_the_number_of_threads_moves_the_last_digit_at_most(name, path):
    """Torch's vector operations round the ends of each thread's share otherwise; hard samples stay the same."""
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            soft, gradient = loss_and_gradient(
                name, torch.randn(1031, 257, generator=torch.Generator().manual_seed(0)), path, hard=False
            )
            results.append((soft, gradient))
    finally:
        torch.set_num_threads(before)
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-7)
