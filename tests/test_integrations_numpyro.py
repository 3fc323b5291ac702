"""numpyro's inference runs with the distribution as it is, and its ELBO gradients come out right."""

from functools import partial

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="pip install 'catreparam[jax]'")
numpyro = pytest.importorskip("numpyro", reason="pip install numpyro")
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from numpyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO  # noqa: E402

import catreparam.jax as cj  # noqa: E402
from catreparam.jax.numpyro import _ESTIMATORS, ReparameterizedCategorical  # noqa: E402

LOCS = jnp.array([-2.0, 0.5, 1.0, 3.0])
LOGITS = jnp.array([0.3, -1.0, 0.8, 0.1])
POINT, COPIES = 0.7, 10_000


def mixture(estimator):
    """Model and guide of COPIES equal points, each with its component."""

    def model():
        with numpyro.plate("points", COPIES):
            z = numpyro.sample("z", ReparameterizedCategorical(logits=jnp.zeros(4), estimator=estimator))
            numpyro.sample("x", dist.Normal(z @ LOCS, 1.0), obs=jnp.full(COPIES, POINT))

    def guide():
        logits = numpyro.param("logits", LOGITS)
        with numpyro.plate("points", COPIES):
            numpyro.sample("z", ReparameterizedCategorical(logits=logits, estimator=estimator))

    return model, guide


def exact_loss(logits):
    log_q = jax.nn.log_softmax(logits)
    log_joint = dist.Normal(LOCS, 1.0).log_prob(POINT) - jnp.log(4.0)
    return -(jnp.exp(log_q) * (log_joint - log_q)).sum()


@pytest.mark.statistical
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_the_elbo_of_a_mixture_has_an_unbiased_gradient(elbo):
    """The ELBO is quadratic in z, for which reinmax is unbiased: 10,000 draws, 6 standard errors, below 1e-8."""
    model, guide = mixture("reinmax")

    def loss(logits, key):
        return elbo().loss(key, {"logits": logits}, model, guide) / COPIES

    found = jax.jit(jax.value_and_grad(loss))(LOGITS, jax.random.key(0))
    wanted = jax.value_and_grad(exact_loss)(LOGITS)
    assert abs(float(found[0] - wanted[0])) < 0.1
    assert np.abs(np.asarray(found[1] - wanted[1])).max() < 6 * 2 / COPIES**0.5
    assert np.abs(np.asarray(wanted[1])).max() > 0.2


@pytest.mark.parametrize("name", ["straight_through", "reinmax", "redge"])
def test_svi_runs_and_learns(name):
    model, guide = mixture(name)
    svi = SVI(model, guide, numpyro.optim.Adam(0.3), Trace_ELBO())
    result = svi.run(jax.random.key(0), 40, progress_bar=False)
    assert exact_loss(result.params["logits"]) < exact_loss(LOGITS) - 0.05


def test_it_is_the_categorical_distribution():
    q = ReparameterizedCategorical(logits=LOGITS.at[1].set(-jnp.inf), estimator=partial(cj.reinmax, temperature=1.3))
    p = np.asarray(q.probs)
    values = q.enumerate_support()
    assert np.allclose(np.exp(q.log_prob(values)), p)
    assert np.allclose(q.entropy(), -(p[p > 0] * np.log(p[p > 0])).sum())
    assert np.allclose(q.variance, p * (1 - p))
    assert np.asarray(q.mode).tolist() == [0, 0, 1, 0]
    x = q.expand((5,)).to_event(1).sample(jax.random.key(0), (100,))
    assert x.shape == (100, 5, 4)
    assert not x[..., 1].any()
    assert bool((x.sum(-1) == 1).all())
    again = ReparameterizedCategorical(probs=jnp.asarray(p))
    assert np.allclose(again.probs, p)
    assert np.isfinite(jax.grad(lambda p: again.__class__(probs=p).entropy())(jnp.asarray(p))).all()


@pytest.mark.parametrize("unimix", [0.2, jnp.array([0.2, 0.0, 1.0])])
@pytest.mark.parametrize("forbidden", [-jnp.inf, jnp.finfo(jnp.float32).min])
def test_unimix_mixes_with_the_uniform_law_over_the_allowed_classes(unimix, forbidden):
    logits = jnp.broadcast_to(LOGITS.at[1].set(forbidden), (3, 4))
    weight = jnp.broadcast_to(unimix, 3)[:, None]

    def wanted(logits, weight):
        return (1 - weight) * jax.nn.softmax(logits) + weight / 3 * (logits > -1e20)

    def found(logits, weight):
        return ReparameterizedCategorical(logits=logits, unimix=weight[:, 0]).probs

    assert np.allclose(
        ReparameterizedCategorical(logits=logits, unimix=unimix).probs, wanted(logits, weight), atol=1e-6
    )
    slopes = [
        jax.jit(jax.grad(lambda *a, f=f: (f(*a) ** 2).sum(), argnums=(0, 1)))(logits, weight) for f in (found, wanted)
    ]
    for ours, theirs in zip(*slopes, strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)


def test_the_mode_has_the_gradient_of_the_probabilities():
    def slope(value):
        return jax.grad(lambda logits: value(ReparameterizedCategorical(logits=logits)) @ LOCS)(LOGITS)

    assert np.allclose(slope(lambda q: q.mode), slope(lambda q: q.probs))


def test_it_is_a_pytree_and_says_that_it_can_be_reparameterised():
    q = ReparameterizedCategorical(logits=LOGITS, estimator="redge")
    twin = jax.tree.map(lambda leaf: leaf, q)
    draw = jax.jit(lambda q, key: q.sample(key))
    assert np.array_equal(draw(q, jax.random.key(1)), draw(twin, jax.random.key(1)))
    assert q.has_rsample
    assert q.support(q.enumerate_support()).all()
    assert not q.support(jnp.array([0.5, 0.5, 0.0, 0.0]))


def test_samplers_of_continuous_sites_refuse_it():
    def model():
        numpyro.sample("z", ReparameterizedCategorical(logits=LOGITS))

    sampler = numpyro.infer.MCMC(numpyro.infer.NUTS(model), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(NotImplementedError):
        sampler.run(jax.random.key(0))


@pytest.mark.parametrize("name", _ESTIMATORS)
def test_samples_are_the_estimators(name):
    key = jax.random.key(3)
    wanted = getattr(cj, name)(jnp.broadcast_to(LOGITS, (2, 4)), key=key)
    assert np.array_equal(ReparameterizedCategorical(logits=LOGITS, estimator=name).sample(key, (2,)), wanted)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "give probs or logits"),
        ({"logits": jnp.zeros(3), "probs": jnp.ones(3)}, ValueError, "not both"),
        ({"logits": jnp.array([0.0, jnp.nan])}, ValueError, "logits hold 1 NaN"),
        ({"logits": [0.0, 1.0]}, TypeError, "must be a jax.Array"),
        ({"probs": jnp.array([0.5, -0.5])}, ValueError, "NaN"),
        ({"logits": jnp.zeros(3), "estimator": "reinmx"}, ValueError, "Did you mean 'reinmax'"),
        ({"logits": jnp.zeros(3), "unimix": 1.5}, ValueError, "unimix must be at least 0 and at most 1"),
        ({"logits": jnp.zeros(3), "estimator": 3}, TypeError, "must be a name or a function"),
    ],
)
def test_bad_settings_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ReparameterizedCategorical(**arguments)
