"""In JAX hyperparameters may be traced, one a row and learned, as in torch; names of other libraries are answered."""

import inspect
import re
from functools import partial

import numpy as np
import pytest
import torch

import catreparam

jax = pytest.importorskip("jax", reason="pip install 'catreparam[jax]'")
import jax.numpy as jnp  # noqa: E402

import catreparam.jax as cj  # noqa: E402

NAMES = [name for name in cj.__all__ if hasattr(cj, f"{name}_surrogate")]
CONTINUOUS = [
    (name, key)
    for name in NAMES
    for key, parameter in inspect.signature(getattr(cj, name)).parameters.items()
    if isinstance(parameter.default, float)
]
LEARNED = {("gumbel_softmax", "temperature"), ("gumbel_rao", "temperature"), ("redge", "t1"), ("redge_cov", "t1")}
LOGITS = jnp.array([[0.0, 1.0, -1.0, -jnp.inf], [2.0, 0.0, 0.5, 0.1]])
UPSTREAM = jnp.array([[1.0, -2.0, 0.5, 3.0], [0.3, 2.0, -1.0, 0.7]])
KEY = jax.random.key(0)


def slope(name, logits, **settings):
    """Sample and gradient, weighed by UPSTREAM."""

    def loss(logits):
        x = getattr(cj, name)(logits, key=KEY, **settings)
        return (x * jnp.broadcast_to(jnp.arange(1.0, 1.0 + x.shape[-1]), x.shape)).sum(), x

    gradient, x = jax.grad(loss, has_aux=True)(logits)
    return jnp.stack([x, gradient])


def test_which_are_tried():
    assert len(CONTINUOUS) == 9
    assert set(CONTINUOUS) >= LEARNED


@pytest.mark.parametrize(("name", "key"), CONTINUOUS)
def test_rows_have_values_of_their_own_and_traced_ones_are_numbers(name, key):
    logits = jax.random.normal(jax.random.key(1), (4, 5, 3))
    first, second = (0.4, 0.8) if key == "t1" else (0.4, 1.3)
    choice = jax.random.uniform(jax.random.key(2), (4, 1, 3)) < 0.5
    found = jax.jit(lambda value: slope(name, logits, axis=1, **{key: value}))
    one, other, mixed = map(
        found, (jnp.full(choice.shape, first), jnp.full(choice.shape, second), jnp.where(choice, first, second))
    )
    assert jnp.allclose(mixed, jnp.where(choice, one, other), atol=1e-5)
    number = jax.jit(lambda: slope(name, logits, axis=1, **{key: first}))
    assert jnp.allclose(number(), one, atol=1e-5)


def torch_slope(name, value, noise, x):
    """Of the torch twin's surrogate, to its hyperparameter."""
    value = torch.from_numpy(np.array(value)).requires_grad_()
    given: dict = {"noise": torch.from_numpy(np.array(noise))}
    if "redge" in name:
        given["schedule"] = catreparam.make_schedule("alpha", 4, value)
    else:
        given["temperature"] = value
    if name == "gumbel_rao":
        given["x"] = torch.from_numpy(np.array(x))
    out = getattr(catreparam, f"{name}_surrogate")(torch.from_numpy(np.array(LOGITS)), **given)
    return torch.autograd.grad((out * torch.from_numpy(np.array(UPSTREAM))).sum(), value)[0].numpy()


@pytest.mark.parametrize(("name", "key"), sorted(LEARNED))
def test_learned_ones_get_the_gradient_of_the_torch_twin(name, key):
    """On the same noise, with a forbidden class; and the sampler's is that of its relaxed sample."""
    value = np.array([[0.6], [0.8]], np.float32) if key == "temperature" else jnp.float32(0.6)
    noise = jax.random.normal(jax.random.key(3), (3, *LOGITS.shape) if name == "gumbel_rao" else LOGITS.shape)
    noise = jnp.exp(noise) if name == "gumbel_rao" else noise
    x = jax.nn.one_hot(jnp.array([1, 2]), 4)

    @jax.jit
    @jax.grad
    def found(value):
        given = {"schedule": cj.make_schedule("alpha", 4, value)} if key == "t1" else {key: value}
        given |= {"x": x} if name == "gumbel_rao" else {}
        return (getattr(cj, f"{name}_surrogate")(LOGITS, noise=noise, **given) * UPSTREAM).sum()

    wanted = torch_slope(name, value, noise, x)
    assert np.abs(wanted).min() > 1e-3
    assert np.allclose(found(value), wanted, rtol=1e-4, atol=1e-5)

    def loss(value, **hard):
        return (getattr(cj, name)(LOGITS, key=KEY, **{key: value}, **hard) * UPSTREAM).sum()

    gradient = jax.jit(jax.grad(loss))(value)
    assert jnp.isfinite(gradient).all()
    assert (gradient != 0).all()
    if "hard" in inspect.signature(getattr(cj, name)).parameters:
        assert jnp.allclose(gradient, jax.jit(jax.grad(partial(loss, hard=False)))(value), atol=1e-6)


@pytest.mark.parametrize(("name", "key"), [pair for pair in CONTINUOUS if pair not in LEARNED])
def test_what_has_no_gradient_says_so_and_takes_constants(name, key):
    def loss(value, logits):
        return (getattr(cj, name)(logits, key=KEY, **{key: value}) * UPSTREAM).sum()

    value = jnp.full((2, 1), 0.5)
    for differentiate in (jax.jit(jax.grad(loss)), jax.grad(jax.jit(loss))):  # neither compiles anything
        with pytest.raises(ValueError, match=rf"{name} gives {key} no gradient; pass jax.lax.stop_gradient\({key}\)"):
            differentiate(value, LOGITS)
    wanted = jax.jit(jax.grad(loss, argnums=1))(value, LOGITS)
    stopped = jax.grad(lambda value, logits: loss(jax.lax.stop_gradient(value), logits), argnums=(0, 1))
    nothing, same = jax.jit(stopped)(value, LOGITS)
    assert jnp.allclose(same, wanted, atol=1e-5)
    assert not nothing.any()


@pytest.mark.parametrize(("name", "key"), CONTINUOUS)
def test_bad_arrays_are_named(name, key):
    def call(value):
        return getattr(cj, name)(LOGITS, key=KEY, **{key: value})

    for shape in ((2,), (2, 4), (3, 1), (1, 2, 1)):
        with pytest.raises(ValueError, match=rf"{key} of shape {re.escape(str(shape))} must broadcast to \(2, 1\)"):
            call(jnp.full(shape, 0.5))
    for bad in (jnp.nan, jnp.inf, -1e9):
        with pytest.raises(ValueError, match=f"{key} must be .*, got {bad}"):
            call(jnp.array([[0.5], [bad]]))
    for wrong in ([0.5, 0.5], (0.5, 0.5)):
        with pytest.raises(TypeError, match=rf"{key} must be a number or an array, got .*use jnp.asarray\({key}\)"):
            call(wrong)
    with pytest.raises(TypeError, match=f"{key} must be a number or an array of real numbers, got bool"):
        call(jnp.ones((2, 1), bool))


@pytest.mark.parametrize("name", NAMES)
def test_hard_true_changes_nothing_and_hard_false_is_one_error_where_nothing_is_relaxed(name):
    function = getattr(cj, name)
    assert jnp.array_equal(function(LOGITS, key=KEY, hard=True), function(LOGITS, key=KEY))
    if "hard" not in inspect.signature(function).parameters:
        with pytest.raises(ValueError, match=f"{name} has no relaxed sample: leave hard=False out, or use one of .*re"):
            function(LOGITS, key=KEY, hard=False)


@pytest.mark.parametrize(
    ("name", "wrong", "remedy"),
    [
        ("redge", "tau", r"use t1, in \(0, 1\]"),
        ("redge", "n_steps", "use num_steps, which counts denoiser evaluations"),
        ("redge", "dim", "use axis"),
        ("redge", "generator", r"use key, such as jax.random.key\(0\)"),
        ("reinmax", "tau", "use temperature"),
        ("straight_through", "tau", "it has no temperature; leave it out"),
        ("reindge", "K", "it draws one noise; average over keys by jax.vmap"),
        ("gumbel_rao", "n_samples", "use num_samples|average over keys by jax.vmap"),
        ("lambda_reinmax", "lam", "use weight"),
        ("exact_redge", "xyz", "it takes: logits, key"),
    ],
)
def test_names_of_other_libraries_are_answered_with_the_remedy(name, wrong, remedy):
    with pytest.raises(TypeError, match=f"{name} has no {wrong}; {remedy}"):
        getattr(cj, name)(LOGITS, key=KEY, **{wrong: 0.5})


@pytest.mark.parametrize("name", NAMES)
def test_positions_and_numbers_of_numpy(name):
    function = getattr(cj, name)
    logits = jnp.zeros(3)
    with pytest.raises(TypeError, match=f"{name} takes logits by position, got 2 more; give the rest by name: key"):
        function(logits, 1.0, True, key=KEY)
    assert jnp.array_equal(function(logits, key=KEY, axis=np.int64(-1)), function(logits, key=KEY))
    for count in {"num_steps", "num_noises"} & set(inspect.signature(function).parameters):
        wanted = function(logits, key=KEY, **{count: 3})
        assert jnp.array_equal(function(logits, key=KEY, **{count: np.int64(3)}), wanted)
