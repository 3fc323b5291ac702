"""Pyro's inference runs with the distributions as they are, and its ELBO gradients come out right."""

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from catreparam.distributions import ReparameterizedBernoulli, ReparameterizedCategorical
from catreparam.kernels import dispatch
from methods import REPARAMETERISED, seeded

LOCS = torch.randn(4, generator=seeded(1)) * 2
POINT = torch.tensor(0.7)
LOGITS = 2 * torch.randn(4, generator=seeded(2))
COPIES = 20_000


@pytest.fixture(autouse=True)
def _fresh_pyro():
    pyro.clear_param_store()
    with torch.random.fork_rng():
        pyro.set_rng_seed(0)
        yield
    pyro.clear_param_store()


def mixture(estimator, copies, **site):
    """Model and guide of `copies` equal points, each with its component; the guide's logits are the leaf."""
    logits = LOGITS.clone().requires_grad_()

    def model():
        with pyro.plate("points", copies):
            z = pyro.sample("z", ReparameterizedCategorical(logits=torch.zeros(4), estimator=estimator))
            pyro.sample("x", dist.Normal(z @ LOCS, 1.0), obs=POINT.expand(copies))

    def guide():
        with pyro.plate("points", copies):
            pyro.sample("z", ReparameterizedCategorical(logits=logits, estimator=estimator), **site)

    return model, guide, logits


def exact_elbo(logits):
    log_q = torch.log_softmax(logits, -1)
    log_joint = dist.Normal(LOCS, 1.0).log_prob(POINT) - torch.tensor(4.0).log()
    return (log_q.exp() * (log_joint - log_q)).sum()


def exact_gradient():
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(-exact_elbo(logits), logits)[0]


@pytest.mark.statistical
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_the_elbo_of_a_mixture_has_an_unbiased_gradient(elbo):
    """The ELBO is quadratic in z, for which reinmax is unbiased: 20,000 draws, tolerance at least 5 standard errors."""
    model, guide, logits = mixture("reinmax", COPIES)
    loss = elbo().differentiable_loss(model, guide)
    (gradient,) = torch.autograd.grad(loss / COPIES, logits)
    assert torch.allclose(gradient, exact_gradient(), atol=0.025)
    assert exact_gradient().abs().max() > 0.3


def test_pyros_straight_through_loses_the_gradient_of_log_prob():
    """Why the prior and the guide both have to be ours: the class is looked up there, which has no derivative."""
    z = torch.eye(4)[0].requires_grad_()
    for law, differentiable in (
        (dist.OneHotCategoricalStraightThrough(logits=LOGITS), False),
        (ReparameterizedCategorical(logits=LOGITS), True),
    ):
        assert law.log_prob(z).requires_grad == differentiable


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_svi_steps_with_every_estimator(name):
    logits = torch.zeros(5, 4)

    def model():
        with pyro.plate("points", 5):
            z = pyro.sample("z", ReparameterizedCategorical(logits=torch.zeros(4)))
            pyro.sample("x", dist.Normal(z @ LOCS, 1.0), obs=torch.full((5,), 0.7))

    def guide():
        with pyro.plate("points", 5):
            pyro.sample("z", ReparameterizedCategorical(logits=pyro.param("logits", logits), estimator=name))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(3):
        svi.step()
    assert pyro.param("logits").abs().min() > 0


def test_enumeration_gives_the_exact_elbo():
    model, guide, logits = mixture("reinmax", 3, infer={"enumerate": "parallel"})
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide)
    assert torch.allclose(loss / 3, -exact_elbo(logits))


def test_plates_events_and_masks():
    law = ReparameterizedCategorical(logits=torch.zeros(3, 2, 4))
    assert (law.event_dim, law.shape((5,))) == (1, (5, 3, 2, 4))
    assert law.to_event(1).event_shape == (2, 4)
    assert law.to_event().batch_shape == ()
    assert law.expand_by((5,)).batch_shape == (5, 3, 2)
    off = law.mask(torch.zeros(3, 2, dtype=torch.bool))
    assert not off.log_prob(law.sample()).any()
    flip = ReparameterizedBernoulli(logits=torch.zeros(3, 2))
    assert (flip.event_dim, flip.shape(), flip().shape) == (0, (3, 2), (3, 2))

    def model():
        with pyro.plate("batch", 3):
            return pyro.sample("x", flip.to_event(1)), pyro.sample("z", law.to_event(1))

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["z"]["log_prob"].shape == (3,)


def test_pyro_is_needed_for_its_own_methods_only_and_may_be_imported_late():
    code = """
import sys, torch
from catreparam.distributions import ReparameterizedCategorical
sys.modules["pyro"] = None  # as if it were not installed
law = ReparameterizedCategorical(logits=torch.zeros(2, 3))
assert law().shape == (2, 3)
try:
    law.to_event(1)
except ImportError as error:
    print(error)
del sys.modules["pyro"]
import pyro
with pyro.plate("batch", 4):
    print(tuple(pyro.sample("z", ReparameterizedCategorical(logits=torch.zeros(3))).shape))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    missing, shape = done.stdout.strip().splitlines()
    assert missing == "this method belongs to Pyro; run pip install '.[integrations]' in your checkout of catreparam"
    assert shape == "(4, 3)"


@pytest.mark.filterwarnings("ignore::Warning")  # torch's own, while it traces
@pytest.mark.parametrize("estimator", ["reinmax", "redge", "exact_redge"])
def test_pyros_traced_elbo_is_the_eager_one(estimator):
    def model(points):
        with pyro.plate("points", 5):
            z = pyro.sample("z", ReparameterizedCategorical(logits=torch.zeros(4)))
            pyro.sample("x", dist.Normal(z @ LOCS, 1.0), obs=points)

    def guide(points):
        with pyro.plate("points", 5):
            logits = pyro.param("logits", torch.zeros(5, 4))
            pyro.sample("z", ReparameterizedCategorical(logits=logits, estimator=estimator))

    found = []
    with torch.random.fork_rng(devices=[]), dispatch.using("naive"):
        for elbo in (Trace_ELBO(), JitTrace_ELBO(ignore_jit_warnings=True)):
            pyro.clear_param_store()
            svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
            svi.step(torch.full((5,), 0.7))  # the first records, which draws too
            pyro.param("logits").data.zero_()
            pyro.set_rng_seed(0)
            svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.1}), elbo)
            losses = [svi.step(torch.full((5,), 0.7)) for _ in range(3)]
            found.append((torch.tensor(losses), pyro.param("logits").detach().clone()))
    pyro.clear_param_store()
    for traced, eager in zip(*found[::-1], strict=True):
        assert torch.allclose(traced, eager, atol=1e-5)
