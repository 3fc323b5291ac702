"""Nothing waits for a device unasked: no estimator, module or loop reads a value back from it."""

import pytest
import torch

import catreparam as c
from catreparam.distributions import ReparameterizedBernoulli, ReparameterizedCategorical
from catreparam.guidance import BlackBoxReward, RewardError, optimize_logits
from catreparam.nn import CategoricalBottleneck, GumbelVectorQuantizer, TopKRouter, VectorQuantizer
from devices import ReadBacks, as_device
from methods import ALL, loss_of, seeded

BAD = {"NaN": torch.nan, "inf": torch.inf, "no class": -torch.inf}
MIXES = {"reinmax_rloo"}  # fits a weight on the whole batch: the other rows lose one that had a say


@pytest.fixture(params=["naive", "torch"])
def device(request):
    with as_device(request.param) as found:
        yield found


def problem(bad=None, dtype=torch.float32):
    logits = torch.randn(5, 3, 4, generator=seeded(), dtype=dtype)
    if bad is not None:
        logits[1, :, 0 if bad > -torch.inf or bad != bad else slice(None)] = bad
    return logits.requires_grad_()


def run(name, logits):
    loss = loss_of(name, logits, generator=seeded(1))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach(), gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_no_estimator_reads_a_value_back(name, dtype, device):
    logits = problem(dtype=dtype)
    with ReadBacks():
        run(name, logits)
    assert device.waited == 0


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ALL)
def test_invalid_rows_give_nan_and_others_what_they_always_do(name, bad, device):
    good, others = problem(), torch.arange(5) != 1
    loss, gradient = run(name, problem(BAD[bad]))
    wanted_loss, wanted = run(name, good)
    assert loss[1].isnan().all()
    assert gradient[1].isnan().all()
    assert torch.equal(loss[others], wanted_loss[others])
    assert torch.equal(gradient[others], wanted[others]) or (name in MIXES and gradient[others].isfinite().all())
    with pytest.raises(ValueError, match=bad):
        c.check_pending()


@pytest.mark.parametrize("name", ["redge", "reinmax", "exact_redge", "gumbel_rao"])
def test_a_backward_pass_raises_what_is_known_by_then(name):
    with as_device("torch") as device:
        x = getattr(c, name)(problem(torch.nan), generator=seeded(1))
        device.work()
        with pytest.raises(ValueError, match="logits hold NaN"):
            x.sum().backward()


RANGES = {"temperature": ("gumbel_softmax", 0.0), "t1": ("redge", 1.5), "weight": ("lambda_reinmax", -1.0)}


@pytest.mark.parametrize("hyperparameter", RANGES)
def test_hyperparameters_outside_their_range_become_nan(hyperparameter, device):
    name, bad = RANGES[hyperparameter]
    values = torch.full((5, 1), 0.7)
    call = getattr(c, name)
    with ReadBacks():
        call(torch.zeros(5, 4), **{hyperparameter: values}, generator=seeded())
    c.check_pending()
    values[1] = bad
    x = call(torch.zeros(5, 4), **{hyperparameter: values}, generator=seeded())
    assert x[1].isnan().all()
    assert x[[0, 2, 3, 4]].isfinite().all()
    with pytest.raises(ValueError, match=hyperparameter):
        c.check_pending()


MODULES = {
    "bottleneck": lambda: CategoricalBottleneck(4, embedding_dim=2),
    "router": lambda: TopKRouter(4, num_experts=3, k=2, capacity_factor=1.0),
    "wav2vec": lambda: GumbelVectorQuantizer(4, 3, (1.0, 0.5, 0.9), 2, True, 4, True),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_no_module_reads_a_value_back(name, training, device):
    module = MODULES[name]().train(training)
    x = torch.randn(5, 2, 4, generator=seeded()).requires_grad_()
    options = {"expert_mask": torch.ones(3, dtype=torch.bool)} if name == "router" else {}

    def tensor_of(x):
        out = module(x, **options)
        return out if isinstance(out, torch.Tensor) else out["x"] if isinstance(out, dict) else out[0]

    with ReadBacks():
        out = tensor_of(x)
        out.sum().backward()
    poisoned = x.detach().clone()
    poisoned[1] = torch.nan
    assert tensor_of(poisoned)[1].isnan().all()
    with pytest.raises(ValueError, match="NaN"):
        c.check_pending()


def test_a_quantizer_reads_at_its_start_alone(device):
    quantizer = VectorQuantizer(4, num_codes=8, replace_after=2, generator=seeded())
    for batch in range(2):  # the start, and a look whether it counted
        quantizer(torch.randn(50, 4, generator=seeded(batch)), generator=seeded(1))
    with ReadBacks():
        for batch in range(5):
            quantizer(torch.randn(50, 4, generator=seeded(batch)), generator=seeded(1))
    quantizer.load_state_dict(quantizer.state_dict())
    with ReadBacks(allowed=True) as reads:
        quantizer(torch.randn(50, 4, generator=seeded()), generator=seeded(1))
    assert reads.count == 1


@pytest.mark.parametrize("broken", [False, True])
def test_dead_codes_go_to_different_whole_features(broken, device):
    quantizer = VectorQuantizer(2, num_codes=6, kmeans_steps=0, replace_after=1, generator=seeded())
    before, features = quantizer.codebook.detach().clone(), torch.arange(20.0).reshape(10, 2)
    features[::2] = torch.nan if broken else features[::2]
    quantizer.idle.copy_(torch.tensor([0, 1, 5, 0, 1, 1]))
    quantizer._care_for_codebook(features, seeded())
    after = quantizer.codebook.detach()
    assert torch.equal(after[[0, 3]], before[[0, 3]])
    found = [tuple(row) for row in after[[1, 2, 4, 5]].tolist()]
    assert set(found) <= {tuple(row) for row in features[torch.isfinite(features).all(-1)].tolist()}
    assert len(set(found)) == 4
    assert quantizer.idle.tolist() == [0] * 6
    quantizer._care_for_codebook(torch.full((3, 2), torch.nan), seeded())
    quantizer.idle.fill_(9)
    quantizer._care_for_codebook(torch.full((3, 2), torch.nan), seeded())
    assert torch.equal(quantizer.codebook.detach(), after)


def test_a_router_with_too_few_experts_says_so_later(device):
    router = TopKRouter(4, num_experts=3, k=2)
    router(torch.randn(5, 4), expert_mask=torch.tensor([True, False, False]))
    with pytest.raises(ValueError, match="expert_mask must allow at least k=2 experts"):
        c.check_pending()


def test_laws_read_nothing_back(device):
    probs, unimix = torch.full((5, 4), 0.25), torch.full((5,), 0.1)
    x, part = torch.eye(4)[[0, 1, 2, 3, 0]], torch.full((5,), 0.5)
    with ReadBacks():
        law = ReparameterizedCategorical(probs, unimix=unimix, temperature=unimix, estimator="gumbel_softmax")
        law.rsample((2,)).sum().backward() if probs.requires_grad else law.rsample((2,))
        law.log_prob(x)
        ReparameterizedBernoulli(part).rsample()
    with pytest.raises(ValueError, match="probs must not be negative"):
        ReparameterizedCategorical(probs - 1), c.check_pending()
    with pytest.raises(ValueError, match="unimix must be at least 0"):
        ReparameterizedCategorical(probs, unimix=unimix - 1), c.check_pending()


# --- guidance: one reading a call, whatever the number of steps ---


@pytest.fixture
def _plain_steps(monkeypatch):
    """Adam counts its steps on the CPU, which is the device here."""
    monkeypatch.setattr(torch.optim, "Adam", lambda params: torch.optim.SGD(params, lr=0.1))


def smooth_reward(x):
    return (x[..., 0] + x.square()[..., 1]).sum(-1)


@pytest.mark.parametrize("track_best", [False, True])
@pytest.mark.parametrize("estimator", ["straight_through", "redge", "rloo", "black box"])
@pytest.mark.usefixtures("_plain_steps")
def test_a_step_of_guidance_reads_nothing_back(estimator, track_best, device):
    black_box = estimator == "black box"
    reward = BlackBoxReward(lambda tokens: (tokens == 1).float().sum(-1)) if black_box else smooth_reward
    settings = {"estimator": "rloo" if black_box else estimator, "num_samples": 2, "track_best": track_best}

    def run(num_steps):
        with ReadBacks(allowed=True) as reads:
            found = optimize_logits(torch.zeros(2, 3, 4), reward, num_steps=num_steps, generator=seeded(), **settings)
        assert len(found.trace.rows) == num_steps
        assert (found.best_tokens is not None) == track_best
        return reads.count

    assert run(2) == run(7) > 0
    c.check_pending()


def test_guidance_names_the_step_of_what_is_not_finite(device):
    calls = []

    def reward(x):
        calls.append(x)
        return smooth_reward(x) / (len(calls) != 3)

    with pytest.raises(RewardError, match="the reward returned a number that is not finite at step 2"):
        optimize_logits(torch.zeros(2, 3, 4), reward, estimator="redge", num_steps=5)
    with pytest.raises(RewardError, match="the gradient of the reward is not finite at step 0"):
        optimize_logits(torch.zeros(2, 3, 4), lambda x: (x[..., 0] * 0).sqrt().sum(-1), estimator="redge", num_steps=5)
    with pytest.raises(ValueError, match="logits hold NaN"):
        optimize_logits(torch.full((2, 3, 4), torch.nan), smooth_reward, estimator="redge", num_steps=2)


def test_a_black_box_that_meets_relaxed_tokens_says_so_later(device):
    reward = BlackBoxReward(lambda tokens: (tokens == 1).float().sum(-1))
    assert reward(torch.full((2, 3, 4), 0.25)).isnan().all()
    with pytest.raises(ValueError, match="this reward is a black box"):
        c.check_pending()
