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


LAWS = {
    dist.OneHotCategorical: ReparameterizedCategorical,
    dist.OneHotCategoricalStraightThrough: ReparameterizedCategorical,
    dist.Bernoulli: ReparameterizedBernoulli,
}
twins = pytest.mark.parametrize("twin", LAWS)


@twins
def test_whatever_pyros_class_has_ours_has(twin):
    ours, theirs = LAWS[twin](logits=torch.zeros(3, 4)), twin(logits=torch.zeros(3, 4))
    assert isinstance(ours, dist.Bernoulli if twin is dist.Bernoulli else dist.OneHotCategorical)
    assert [name for name in dir(theirs) if not name.startswith("_") and not hasattr(ours, name)] == []
    with pytest.raises(Exception, match="renamed and split into"):
        ours.reshape((2,))
    with pytest.raises(AttributeError, match="has no attribute 'no_such_method'"):
        ours.no_such_method()
    for shape in ((4,), (3, 4), (2, 1, 3, 4)):
        law = LAWS[twin](logits=torch.zeros(shape))
        for name in ("probs", "logits"):
            assert LAWS[twin].infer_shapes(**{name: shape}, temperature=()) == (law.batch_shape, law.event_shape)


@twins
def test_has_rsample_switches_to_the_score_function_and_lasts(twin):
    def model():
        with pyro.plate("points", 3), pyro.plate("copies", 2):
            return pyro.sample("z", law)

    law = LAWS[twin](logits=torch.zeros((3,) if twin is dist.Bernoulli else (3, 4), requires_grad=True))
    assert law().requires_grad
    assert law.has_rsample_(False) is law
    trace = pyro.poutine.trace(model).get_trace()
    for fn in (law, law.expand((5, 3)), law.expand_by((2,)), law.to_event(1), trace.nodes["z"]["fn"]):
        assert not fn.has_rsample
        assert not fn().requires_grad
        log_prob, score, entropy = fn.score_parts(fn())
        assert torch.equal(score, log_prob)
        assert entropy == 0
    assert law.has_rsample_(True)().requires_grad
    with pytest.raises(TypeError, match="value must be True or False, got 2"):
        law.has_rsample_(2)


@twins
@pytest.mark.parametrize("other_is_ours", [True, False])
@pytest.mark.parametrize("batch", [(), (4,), (3, 2)])
def test_conjugate_update_adds_log_probabilities(twin, other_is_ours, batch):
    shape = (*batch, 5) if LAWS[twin] is ReparameterizedCategorical else batch
    first, second = torch.randn(2, *shape, generator=seeded(4))
    f = LAWS[twin](logits=first, estimator="redge", t1=0.3)
    g = (LAWS[twin] if other_is_ours else twin)(logits=second)
    updated, constant = f.conjugate_update(g)
    assert (type(updated), updated.batch_shape, constant.shape) == (type(f), batch, batch)
    support = f.enumerate_support()
    torch.testing.assert_close(f.log_prob(support) + g.log_prob(support), updated.log_prob(support) + constant)
    assert "estimator: redge" in repr(updated)
    assert not f.mask(torch.tensor(False)).conjugate_update(g)[1].any()


def test_conjugate_update_keeps_forbidden_classes_and_refuses_laws_that_exclude_each_other():
    f = ReparameterizedCategorical(logits=torch.tensor([0.0, 1.0, -torch.inf]))
    updated, constant = f.conjugate_update(ReparameterizedCategorical(probs=torch.tensor([0.0, 0.5, 0.5])))
    assert updated.probs.tolist() == [0.0, 1.0, 0.0]
    assert torch.allclose(constant.exp(), f.probs[1] / 2)
    with pytest.raises(ValueError, match="allow no class"):
        f.conjugate_update(ReparameterizedCategorical(probs=torch.tensor([0.0, 0.0, 1.0])))


@twins
def test_marginals_after_enumeration_are_those_of_pyros_classes(twin):
    def marginal(law):
        def model():
            with pyro.plate("points", 2):
                z = pyro.sample("z", law(logits=LOGITS[:2] if twin is dist.Bernoulli else LOGITS))
                pyro.sample("x", dist.Normal(z if twin is dist.Bernoulli else z @ LOCS, 1.0), obs=LOCS[:2])

        elbo = TraceEnum_ELBO(max_plate_nesting=1)
        found = elbo.compute_marginals(pyro.infer.config_enumerate(model), lambda: None)["z"]
        return found.batch_shape, found.probs

    ours, theirs = marginal(LAWS[twin]), marginal(twin)
    assert ours[0] == theirs[0]
    torch.testing.assert_close(ours[1], theirs[1])


def test_ours_may_be_put_in_the_place_of_pyros(monkeypatch):
    monkeypatch.setattr(dist, "Bernoulli", ReparameterizedBernoulli)

    class Coin(dist.Bernoulli):
        pass

    law = Coin(0.5)
    assert isinstance(law, pyro.distributions.torch_distribution.TorchDistributionMixin)
    assert isinstance(law.expand_by((3,)), Coin)


@pytest.mark.parametrize("law", [ReparameterizedCategorical, ReparameterizedBernoulli])
def test_pyros_wrappers_keep_divergences(law):
    p, q = (law(logits=torch.randn(3, 4, generator=seeded(seed))) for seed in (6, 7))
    kl, mask = torch.distributions.kl_divergence, torch.tensor([True, False, True]).view(3, *[1] * (1 - p.event_dim))
    wanted = kl(p, q)
    torch.testing.assert_close(kl(p.mask(mask), q.mask(mask)), wanted * mask)
    torch.testing.assert_close(kl(p.to_event(1), q.to_event(1)), wanted.sum(-1))
    delta = dist.Delta(q.mode, event_dim=q.event_dim)
    torch.testing.assert_close(kl(delta, q), -q.log_prob(q.mode))


def test_a_compiled_function_makes_them_while_pyro_is_loaded():
    @torch.compile(fullgraph=True, backend="eager")
    def value(logits):
        class_law = ReparameterizedCategorical(logits=logits, validate_args=False)
        return class_law.entropy() + ReparameterizedBernoulli(logits=logits, validate_args=False).mean.sum(-1)

    logits = torch.zeros(2, 4)
    torch.testing.assert_close(value(logits), torch.full((2,), 2 + torch.tensor(4.0).log().item()))


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
