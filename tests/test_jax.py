"""The JAX estimators: equal to torch's on the same noise, and at home under jit, vmap and grad."""

import numpy as np
import pytest
import torch
from scipy import stats

import catreparam

jax = pytest.importorskip("jax", reason="pip install 'catreparam[jax]'")
import jax.numpy as jnp  # noqa: E402

import catreparam.jax as cj  # noqa: E402

ROWS, CLASSES, NOISES = 40, 6, 4
TOLERANCE = 1e-5
FAILURE_RATE = 1e-4  # per statistical test; nine cases below
ESTIMATORS = {
    "straight_through": {},
    "gumbel_softmax": {"temperature": 0.7},
    "gumbel_rao": {"num_noises": 3},
    "reinmax": {},
    "lambda_reinmax": {"weight": 0.5},
    "redge": {},
    "redge_cov": {},
    "reindge": {},
    "exact_redge": {"num_noises": 3, "second_order_weight": 1.0},
}
EXACT_LAW = [name for name in ESTIMATORS if name not in ("redge", "redge_cov", "reindge")]


def schedules(grid: str, num_steps: int, t1: float) -> dict:
    return {"schedule": catreparam.make_schedule(grid, num_steps, t1)}


SURROGATES = {
    "straight_through": ("straight_through", (), {}),
    "gumbel_softmax": ("gumbel_softmax", ("gumbel",), {"temperature": 0.7}),
    "gumbel_rao": ("gumbel_rao", ("exponentials", "x"), {"temperature": 0.5}),
    "reinmax": ("reinmax", ("x",), {}),
    "reinmax at temperature 1.3": ("reinmax", ("x",), {"temperature": 1.3}),
    "lambda_reinmax": ("lambda_reinmax", ("x",), {"weight": 0.75}),
    "exact_redge": ("exact_redge", ("normal", "x"), schedules("lambda", 4, 0.5)),
    "exact_redge, several noises": (
        "exact_redge",
        ("normals", "x"),
        {**schedules("quadratic", 5, 0.35), "second_order_weight": 1.0},
    ),
    **{
        f"{name}, {solver}, {grid} grid": (name, ("normal", "x"), {**schedules(grid, 4, 0.4), "solver": solver})
        for name in ("redge", "redge_cov", "reindge")
        for solver, grid in (("euler", "alpha"), ("ab2", "lambda"), ("heun", "quadratic"))
    },
    "redge, one step": ("redge", ("normal",), schedules("alpha", 1, 0.5)),
}


def inputs(impossible: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    logits = random.normal(size=(ROWS, CLASSES)).astype(np.float32)
    if impossible:
        logits[:, 2] = -np.inf
        logits[0, 1:] = -np.inf  # one class left
    index = np.argmax(np.where(np.isinf(logits), -np.inf, random.normal(size=(ROWS, CLASSES))), -1)
    exponentials = random.exponential(size=(NOISES, ROWS, CLASSES)).astype(np.float32)
    return {
        "logits": logits,
        "upstream": random.normal(size=(ROWS, CLASSES)).astype(np.float32),
        "x": np.eye(CLASSES, dtype=np.float32)[index],
        "normal": random.normal(size=(ROWS, CLASSES)).astype(np.float32),
        "normals": random.normal(size=(NOISES, ROWS, CLASSES)).astype(np.float32),
        "exponentials": exponentials,
        "gumbel": -np.log(exponentials[0]),
    }


@pytest.mark.parametrize("case", SURROGATES)
def test_surrogate_equals_torch_on_the_same_noise(case):
    """Value and gradient, relative to the largest entry, on finite logits and on some that hold -inf."""
    name, names, hyperparameters = SURROGATES[case]
    keys = [("x" if name == "x" else "noise") for name in names]

    @jax.jit
    def value_and_gradient(logits, upstream, *arguments):
        def loss(logits):
            value = getattr(cj, f"{name}_surrogate")(
                logits, **dict(zip(keys, arguments, strict=True)), **hyperparameters
            )
            return (value * upstream).sum(), value

        gradient, value = jax.grad(loss, has_aux=True)(logits)
        return value, gradient

    for given in (inputs(impossible=False), inputs(impossible=True)):
        logits = torch.from_numpy(given["logits"]).requires_grad_()
        arguments = {key: torch.from_numpy(given[name]) for key, name in zip(keys, names, strict=True)}
        value = getattr(catreparam, f"{name}_surrogate")(logits, **arguments, **hyperparameters)
        (gradient,) = torch.autograd.grad((value * torch.from_numpy(given["upstream"])).sum(), logits)
        found = value_and_gradient(given["logits"], given["upstream"], *(given[name] for name in names))
        for ours, theirs in zip(found, (value.detach().numpy(), gradient.numpy()), strict=True):
            assert np.abs(np.asarray(ours) - theirs).max() < TOLERANCE * max(1.0, np.abs(theirs).max())
        assert np.abs(gradient.numpy()).max() > 0.05


@pytest.mark.parametrize("name", ESTIMATORS)
def test_hard_samples_are_one_hot_and_a_mask_leaves_nothing_behind_it(name):
    mask = jnp.arange(CLASSES) != 3
    weights = jnp.arange(CLASSES, dtype=jnp.float32)

    def loss(logits, key):
        x = getattr(cj, name)(logits, key=key, mask=mask, **ESTIMATORS[name])
        return ((x @ weights) ** 2).sum(), x

    logits = jax.random.normal(jax.random.key(1), (300, CLASSES)).at[:, 5].set(-jnp.inf)
    gradient, x = jax.jit(jax.grad(loss, has_aux=True))(logits, jax.random.key(0))
    x, gradient = np.asarray(x), np.asarray(gradient)
    assert set(np.unique(x)) == {0.0, 1.0}
    assert (x.sum(-1) == 1).all()
    assert (x[:, [3, 5]] == 0).all()
    assert (gradient[:, [3, 5]] == 0).all()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0.05


@pytest.mark.parametrize("name", ESTIMATORS)
def test_vmap_over_logits_and_keys_changes_nothing(name):
    estimator = getattr(cj, name)
    logits = jax.random.normal(jax.random.key(1), (3, 4, CLASSES))
    keys = jax.random.split(jax.random.key(0), 3)

    @jax.jit
    def gradient(logits, key):
        return jax.grad(lambda rows: (estimator(rows, key=key, **ESTIMATORS[name]) ** 2 @ jnp.arange(6.0)).sum())(
            logits
        )

    together = jax.jit(jax.vmap(gradient))(logits, keys)
    one_by_one = jnp.stack([gradient(*pair) for pair in zip(logits, keys, strict=True)])
    assert jnp.allclose(together, one_by_one, atol=1e-5)
    assert jnp.abs(together).max() > 0.05


def test_jit_changes_nothing():
    logits = jax.random.normal(jax.random.key(1), (4, CLASSES))
    eager = jax.grad(lambda rows: (cj.redge(rows, key=jax.random.key(0)) ** 2 @ jnp.arange(6.0)).sum())(logits)
    jitted = jax.jit(jax.grad(lambda rows: (cj.redge(rows, key=jax.random.key(0)) ** 2 @ jnp.arange(6.0)).sum()))(
        logits
    )
    assert jnp.allclose(eager, jitted, atol=1e-6)


@pytest.mark.statistical
@pytest.mark.parametrize("name", ESTIMATORS)
def test_hard_samples_follow_their_law(name):
    """A chi-square test, which fails by chance at FAILURE_RATE. The ReDGEs follow their own mean relaxed sample."""
    logits = jnp.asarray([0.5, -1.0, 0.0, 1.0])
    rows = jnp.broadcast_to(logits, (20_000, 4))
    x = np.asarray(getattr(cj, name)(rows, key=jax.random.key(7), **ESTIMATORS[name]))
    law = np.asarray(jax.nn.softmax(logits))
    if name not in EXACT_LAW:
        source = cj.redge_cov_surrogate if name == "redge_cov" else cj.redge_surrogate
        noise = jax.random.normal(jax.random.key(8), (100_000, 4))
        law = np.asarray(source(jnp.broadcast_to(logits, noise.shape), noise=noise, schedule=cj.alpha_grid()).mean(0))
    assert stats.chisquare(x.sum(0), law / law.sum() * len(x)).pvalue > FAILURE_RATE


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_comes_back_without_nan(dtype):
    logits = (jax.random.normal(jax.random.key(1), (200, 8)) * 5).astype(dtype)
    x, gradient = jax.value_and_grad(lambda rows: cj.redge(rows, key=jax.random.key(0))[:, 0].sum())(logits)
    assert gradient.dtype == dtype
    assert jnp.isfinite(gradient).all()
    assert x.dtype == dtype


def test_classes_may_lie_on_any_axis():
    logits = jax.random.normal(jax.random.key(1), (4, CLASSES, 3))
    x = cj.reinmax(logits, key=jax.random.key(0), axis=1)
    moved = cj.reinmax(jnp.moveaxis(logits, 1, -1), key=jax.random.key(0))
    assert jnp.array_equal(x, jnp.moveaxis(moved, -1, 1))


KEY = jax.random.key(0)
BAD_INPUT = {
    "torch logits": (lambda: cj.redge(torch.zeros(3), key=KEY), TypeError, "jnp.asarray"),
    "a list": (lambda: cj.redge([0.0, 1.0], key=KEY), TypeError, "jax.Array"),
    "integers": (lambda: cj.redge(jnp.zeros(3, jnp.int32), key=KEY), TypeError, "floating"),
    "no classes": (lambda: cj.redge(jnp.zeros((2, 0)), key=KEY), ValueError, "num_classes"),
    "no axis": (lambda: cj.redge(jnp.float32(0), key=KEY), ValueError, "class axis"),
    "axis out of range": (lambda: cj.redge(jnp.zeros(3), key=KEY, axis=1), ValueError, r"\[-1, 0\]"),
    "axis not a number": (lambda: cj.redge(jnp.zeros(3), key=KEY, axis="last"), TypeError, "last"),
    "nan": (lambda: cj.redge(jnp.array([0.0, jnp.nan]), key=KEY), ValueError, "1 NaN"),
    "plus infinity": (lambda: cj.redge(jnp.array([0.0, jnp.inf]), key=KEY), ValueError, r"\+inf"),
    "nothing allowed": (lambda: cj.redge(jnp.full(3, -jnp.inf), key=KEY), ValueError, "allow no class"),
    "mask of numbers": (lambda: cj.redge(jnp.zeros(3), key=KEY, mask=jnp.ones(3)), TypeError, "boolean"),
    "mask of torch": (lambda: cj.redge(jnp.zeros(3), key=KEY, mask=torch.ones(3) > 0), TypeError, "jax.Array"),
    "mask too long": (lambda: cj.redge(jnp.zeros(3), key=KEY, mask=jnp.ones(4, bool)), ValueError, "broadcast"),
    "no key": (lambda: cj.redge(jnp.zeros(3), key=None), TypeError, r"jax.random.key\(0\)"),
    "seed for a key": (lambda: cj.redge(jnp.zeros(3), key=0), TypeError, r"jax.random.key\(0\)"),
    "no steps": (lambda: cj.redge(jnp.zeros(3), key=KEY, num_steps=0), ValueError, "num_steps must be at least 1"),
    "t1 of zero": (lambda: cj.exact_redge(jnp.zeros(3), key=KEY, t1=0.0), ValueError, "t1"),
    "misspelt solver": (lambda: cj.redge(jnp.zeros(3), key=KEY, solver="hoin"), ValueError, "heun"),
    "weight out of range": (lambda: cj.lambda_reinmax(jnp.zeros(3), key=KEY, weight=3.0), ValueError, "weight"),
    "cold": (lambda: cj.gumbel_softmax(jnp.zeros(3), key=KEY, temperature=0.0), ValueError, "temperature"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_clear_error(case):
    call, error, message = BAD_INPUT[case]
    with pytest.raises(error, match=message):
        call()
