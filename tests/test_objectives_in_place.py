"""What objectives may do: change their argument in place, return an infinite loss; and whatever draws for them."""

import functools
import itertools
import math

import pytest
import torch

import catreparam
from catreparam import exact_gradient, expectation, make_estimator, measure
from catreparam.estimators.facts import ESTIMATORS, facts_of


def plain(x):
    return 2.0 * x[..., 0] + x[..., 1] ** 2


def in_place(x):
    value = 2.0 * x[..., 0] + x[..., 1] ** 2
    x.mul_(2.0)
    x[..., 0] = 7.0
    return value


def in_place_first(x):
    x.mul_(2.0)
    return x[..., 0] + (x[..., 1] / 2) ** 2


def loss_and_gradient(objective, name, num_samples):
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    loss = expectation(objective, logits, estimator=name, num_samples=num_samples, generator=generator)
    loss.sum().backward()
    return loss.detach(), logits.grad


def cases():
    """`in_place` for score functions alone: torch forbids to change what a gradient still needs."""
    for name in ESTIMATORS:
        objectives = [in_place_first, *([in_place] if name in ("exact", "reinforce", "rloo", "arsm") else [])]
        numbers = [number for number in (1, 2, 4) if number >= facts_of(name).fewest_samples]
        yield from itertools.product([name], numbers, objectives)


@pytest.mark.parametrize(("name", "num_samples", "objective"), list(cases()))
def test_objectives_may_change_their_argument_in_place(name, num_samples, objective):
    for wanted, found in zip(
        loss_and_gradient(plain, name, num_samples), loss_and_gradient(objective, name, num_samples), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_exact_gradients_and_measurements_take_them_too():
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(exact_gradient(in_place_first, logits), exact_gradient(plain, logits))
    for name in ("rloo", "reinmax"):
        one, other = (
            measure(f, logits, estimator=name, num_samples=2, num_draws=50, generator=torch.Generator().manual_seed(0))
            for f in (plain, in_place_first)
        )
        assert other.variance == pytest.approx(one.variance, rel=1e-5)


def test_one_infinite_loss_does_not_stay_in_a_moving_baseline():
    method = make_estimator("reinforce")
    baseline = method.keywords["baseline"]
    for _ in range(3):
        expectation(plain, torch.zeros(4, 3), estimator=method)
    before = baseline.value
    for odd in (math.inf, -math.inf, math.nan):
        with pytest.warns(RuntimeWarning, match="baseline leaves out"):
            expectation(lambda x, odd=odd: plain(x) + odd, torch.zeros(4, 3), estimator=method)
    assert baseline.value == before
    logits = torch.zeros(4, 3, requires_grad=True)
    expectation(plain, logits, estimator=method).sum().backward()
    assert bool(logits.grad.isfinite().all())
    assert math.isfinite(baseline.value)


@pytest.mark.parametrize("odd", [math.inf, math.nan, 1e38])
def test_one_infinite_loss_does_not_stay_in_what_relax_learns_nor_in_its_adam(odd):
    method = make_estimator("relax")
    variate = method.keywords["control_variate"]
    adam = torch.optim.Adam(variate.parameters(), lr=0.1)

    def step(objective):
        adam.zero_grad()
        logits = torch.zeros(4, 3, requires_grad=True)
        expectation(objective, logits, estimator=method, generator=torch.Generator().manual_seed(0)).sum().backward()
        adam.step()
        return logits.grad

    step(plain)
    with pytest.warns(UserWarning, match="learns nothing"):
        step(lambda x: plain(x) * odd * 100)
    assert bool(step(plain).isfinite().all())
    assert all(bool(parameter.isfinite().all()) for parameter in variate.parameters())
    states = [value for state in adam.state.values() for value in state.values()]
    assert all(bool(torch.as_tensor(value).isfinite().all()) for value in states)


def test_functions_get_a_generator_and_a_mask_only_if_they_take_them():
    logits, generator = torch.zeros(5, 3), torch.Generator().manual_seed(0)
    mask = torch.tensor([True, True, False])
    for function in (
        lambda logits: torch.softmax(logits, -1),
        functools.partial(lambda logits, scale: torch.softmax(logits * scale, -1), scale=2.0),
        torch.nn.Softmax(-1),
    ):
        for count in (1, 3):
            loss = expectation(lambda x: x[..., 0], logits, estimator=function, num_samples=count, generator=generator)
            assert torch.allclose(loss, torch.full((5,), 1 / 3))
            loss = expectation(lambda x: x[..., 2], logits, estimator=function, num_samples=count, mask=mask)
            assert torch.equal(loss, torch.zeros(5))
    seen = {}

    def takes_all(logits, **given):
        seen.update(given)
        return catreparam.straight_through(logits, **given)

    expectation(lambda x: x[..., 0], logits, estimator=takes_all, mask=mask, generator=generator)
    assert seen == {"mask": mask, "generator": generator}
