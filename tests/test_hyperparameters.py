"""Hyperparameters as numbers of NumPy, tensors with one value a row, and learned ones with their gradient."""

import inspect
import re

import numpy as np
import pytest
import torch

import catreparam
from catreparam import ESTIMATORS, make_estimator
from catreparam.distributions import ReparameterizedCategorical
from catreparam.estimators.facts import facts_of
from catreparam.kernels import dispatch
from methods import seeded

LOGITS = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5]])
UPSTREAM = torch.tensor([[1.0, -2.0, 0.5], [0.3, 2.0, -1.0]])


def gradient(function, *arguments, **keywords):
    logits = LOGITS.clone().requires_grad_()
    first = (lambda x: x[..., 0] ** 2,) if facts_of(function).takes_objective else ()
    out = function(*first, logits, *arguments, generator=seeded(), **keywords)
    weighted = (out * torch.arange(1.0, 1 + out.numel()).view_as(out)).sum()
    return out.detach(), *torch.autograd.grad(weighted, logits)


CONTINUOUS = [
    (name, key)
    for name in ESTIMATORS
    for key in facts_of(name).hyperparameters
    if isinstance(inspect.signature(ESTIMATORS[name]).parameters[key].default, float) and key != "baseline"
]
# Where the relaxed sample depends on the hyperparameter, so that the gradient of the sample has something to follow.
LEARNED = {
    ("gumbel_softmax", "temperature"),
    ("gumbel_softmax", "tau"),
    ("gumbel_rao", "temperature"),
    ("gapped_straight_through", "temperature"),
    ("gapped_straight_through", "gap"),
    ("decoupled_straight_through", "backward_temperature"),
    ("redge", "t1"),
    ("redge_cov", "t1"),
}
VALUES = {"t1": (0.4, 0.8), "eta": (0.3, 0.9)}


@pytest.mark.parametrize(("name", "key"), CONTINUOUS)
def test_numbers_of_numpy_and_tensors_of_one_value_are_numbers(name, key):
    value = np.float32(VALUES.get(key, (0.7,))[0])
    plain = gradient(ESTIMATORS[name], **{key: float(value)})
    for same in (value, np.float64(value), torch.tensor(value), torch.tensor(float(value), dtype=torch.float64)):
        assert all(map(torch.equal, gradient(ESTIMATORS[name], **{key: same}), plain))


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if facts_of(name).relaxes])
def test_hard_may_be_a_flag_of_numpy_or_a_digit(name):
    for hard in (True, False):
        plain = gradient(ESTIMATORS[name], hard=hard)
        for same in (np.bool_(hard), int(hard), np.int64(hard)):
            assert all(map(torch.equal, gradient(ESTIMATORS[name], hard=same), plain))


@pytest.mark.parametrize("name", ["redge", "redge_cov", "reindge", "exact_redge"])
def test_counts_may_be_numbers_of_numpy(name):
    plain = gradient(ESTIMATORS[name], num_steps=3)
    assert all(map(torch.equal, gradient(ESTIMATORS[name], num_steps=np.int64(3)), plain))


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize(("name", "key"), CONTINUOUS)
def test_rows_have_values_of_their_own(name, key, dim):
    """A tensor [*batch, 1 in the place of the classes] gives every row what the number gives all rows."""
    if facts_of(name).takes_objective:
        with pytest.raises(TypeError, match=f"{key} must be one number, got a tensor of shape"):
            gradient(ESTIMATORS[name], **{key: torch.full((2, 1), 0.5)})
        return
    logits = torch.randn(4, 3, 5, generator=seeded(1))
    first, second = VALUES.get(key, (0.4, 1.3))
    values = torch.where(torch.rand(4, 3, generator=seeded(2)) < 0.5, first, second)
    upstream = torch.randn(logits.shape, generator=seeded(3))

    def found(value):
        rows = logits.movedim(-1, dim).clone().requires_grad_()
        x = ESTIMATORS[name](rows, dim=dim, generator=seeded(), **{key: value})
        (slope,) = torch.autograd.grad((x.movedim(dim, -1) * upstream).sum(), rows)
        return torch.stack([x.detach(), slope]).movedim(dim if dim < 0 else dim + 1, -1)

    with dispatch.using("naive"):  # whose noise this is
        one, other, mixed = found(first), found(second), found(values.unsqueeze(dim))
        everywhere = found(torch.tensor(first, requires_grad=(name, key) in LEARNED))
    assert torch.allclose(mixed, torch.where(values.unsqueeze(-1) == first, one, other), atol=1e-5)
    assert torch.allclose(everywhere, one, atol=1e-5)


@pytest.mark.parametrize(("name", "key"), sorted(LEARNED))
@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_learned_hyperparameters_get_the_gradient_of_the_relaxed_sample(name, key, shape):
    """Against finite differences in float64, of the surrogate with fixed noise: that of the relaxed sample."""
    logits, upstream = LOGITS.double(), torch.randn(2, 3, generator=seeded(4), dtype=torch.float64)
    relaxed = {"hard": False} if facts_of(name).relaxes and name != "decoupled_straight_through" else {}
    value = torch.full(shape, 1.6 if key == "gap" else 0.6, dtype=torch.float64, requires_grad=True)

    def loss(value, **settings):
        return (ESTIMATORS[name](logits, generator=seeded(), **{key: value}, **settings) * upstream).sum()

    (slope,) = torch.autograd.grad(loss(value, **({"hard": True} if relaxed else {})), value)
    assert slope.shape == shape
    assert slope.abs().max() > 1e-4
    if not relaxed:  # the hard sample has its value only: follow the surrogate
        return
    assert torch.allclose(slope, torch.autograd.grad(loss(value, **relaxed), value)[0])
    assert torch.autograd.gradcheck(lambda value: loss(value, **relaxed), value)


def test_learned_temperatures_of_surrogates_get_their_gradient():
    logits, x = LOGITS.double(), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    noise = torch.empty(4, 2, 3, dtype=torch.float64).exponential_(generator=seeded())
    value = torch.tensor([[0.6], [0.9]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda value: catreparam.gumbel_rao_surrogate(logits, noise=noise, x=x, temperature=value), value
    )
    assert torch.autograd.gradcheck(
        lambda value: catreparam.decoupled_straight_through_surrogate(
            logits, noise=noise[0], backward_temperature=value
        ),
        value,
    )


@pytest.mark.parametrize(("name", "key"), [pair for pair in CONTINUOUS if pair not in LEARNED])
def test_what_has_no_gradient_says_so_and_takes_constants(name, key):
    learned = torch.nn.Parameter(torch.full((2, 1), 0.5))
    if facts_of(name).takes_objective:
        with pytest.raises(TypeError, match=f"{key} must be one number"):
            gradient(ESTIMATORS[name], **{key: learned})
        return
    with pytest.raises(ValueError, match=f"{name} gives {key} no gradient; pass {key}.detach()"):
        gradient(ESTIMATORS[name], **{key: learned})
    with torch.no_grad():
        ESTIMATORS[name](LOGITS, **{key: learned})


@pytest.mark.parametrize(("name", "key"), [pair for pair in CONTINUOUS if not facts_of(pair[0]).takes_objective])
def test_bad_tensors_are_named(name, key):
    def call(value):
        return ESTIMATORS[name](LOGITS, **{key: value})

    for shape in ((2,), (2, 3), (3, 1), (1, 2, 1)):
        with pytest.raises(ValueError, match=rf"{key} of shape {re.escape(str(shape))} must broadcast to \(2, 1\)"):
            call(torch.full(shape, 0.5))
    for bad in (torch.nan, torch.inf, -1e9):
        with pytest.raises(ValueError, match=f"{key} must be .*, got {bad}"):
            call(torch.tensor([[0.5], [bad]]))
    with pytest.raises(TypeError, match=f"{key} must be a number or a plain tensor of real numbers, got torch.bool"):
        call(torch.ones(2, 1, dtype=torch.bool))


def test_a_tensor_is_read_at_every_call():
    value = torch.tensor(0.9)
    before = gradient(catreparam.redge, t1=value)
    value.fill_(0.25)
    assert not torch.equal(gradient(catreparam.redge, t1=value)[1], before[1])
    assert torch.equal(gradient(catreparam.redge, t1=value)[1], gradient(catreparam.redge, t1=0.25)[1])


@pytest.mark.parametrize("transform", ["compile", "vmap", "grad"])
def test_learned_temperatures_under_transforms(transform):
    def loss(value):
        return (catreparam.gumbel_softmax(LOGITS, temperature=value, hard=False) * UPSTREAM).sum()

    value = torch.tensor([[0.6], [0.9]])
    if transform == "vmap":
        found = torch.vmap(loss, randomness="same")(torch.stack([value, value]))
        assert torch.equal(found[0], found[1])
    elif transform == "grad":
        assert (torch.func.grad(loss)(value) != 0).all()
    else:
        value.requires_grad_()
        (slope,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(value), value)
        assert (slope != 0).all()


def test_made_estimators_and_distributions_learn_a_temperature():
    value = torch.nn.Parameter(torch.tensor(0.7))
    rows = torch.nn.Parameter(torch.tensor([0.7, 0.9]))
    for estimator in ("gumbel_softmax", make_estimator("gumbel_softmax"), catreparam.gumbel_softmax):
        for given in (value, rows):
            x = ReparameterizedCategorical(logits=LOGITS, estimator=estimator, temperature=given).rsample((5,))
            (slope,) = torch.autograd.grad((x * UPSTREAM).sum(), given)
            assert (slope != 0).all()
    x = make_estimator("redge", t1=torch.nn.Parameter(torch.tensor(0.5)))(LOGITS)
    assert x.requires_grad


@pytest.mark.parametrize(("name", "key"), [pair for pair in CONTINUOUS if not facts_of(pair[0]).takes_objective])
def test_made_estimators_hold_values_per_row(name, key):
    rows, value = torch.randn(3, 2, 5, generator=seeded(1)), torch.full((3, 1, 1), 0.5)
    found = make_estimator(name, **{key: value})(rows, generator=seeded(2))
    assert torch.equal(found, ESTIMATORS[name](rows, **{key: value}, generator=seeded(2)))
    for end in (float("nan"), -1e9, float("inf")):
        with pytest.raises(ValueError, match=key):
            make_estimator(name, **{key: torch.tensor([[0.5], [end], [0.6]])})
    with pytest.raises(TypeError, match=f"{key} must be a number or a tensor, got list; use torch.as_tensor"):
        make_estimator(name, **{key: [0.5, 0.6]})
    with pytest.raises(TypeError, match=f"{key} must be .* got torch.sparse_coo"):
        ESTIMATORS[name](rows, **{key: value.to_sparse()})
    with pytest.raises(ValueError, match=f"{key} lives on meta but logits on cpu"):
        ESTIMATORS[name](rows, **{key: value.to("meta")})


@pytest.mark.parametrize(("name", "key"), sorted(LEARNED))
def test_forbidden_classes_leave_a_learned_hyperparameter_its_gradient(name, key):
    """That of the row without the class, where noise is drawn class by class in the same order."""
    logits = torch.cat([LOGITS, torch.full((2, 1), -torch.inf)], -1)

    def slopes(rows):
        value = torch.full((2, 1), 1.6 if key == "gap" else 0.6, requires_grad=True)
        rows = rows.clone().requires_grad_()
        x = ESTIMATORS[name](rows, generator=seeded(), **{key: value})
        weighted = (x[..., :3] * UPSTREAM).sum()
        return torch.autograd.grad(weighted, (value, rows))

    for rows in (
        logits,
        logits.masked_fill(logits == -torch.inf, -1e19),
        logits.movedim(-1, 0).roll(1, 0).movedim(0, -1),
    ):
        of_value, of_rows = slopes(rows)
        assert of_value.isfinite().all()
        assert (of_value != 0).all()
        assert of_rows.isfinite().all()
