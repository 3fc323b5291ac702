"""The distributions agree with torch's, carry their estimator's gradient, and say what is wrong with bad input."""

import copy
import pickle

import pytest
import torch
from scipy import stats
from torch.distributions import Bernoulli, Independent, OneHotCategorical, kl_divergence

import catreparam
from catreparam import make_estimator
from catreparam.distributions import ReparameterizedBernoulli, ReparameterizedCategorical
from catreparam.kernels import dispatch
from methods import REPARAMETERISED, SCORE_FUNCTION, seeded

LOGITS = torch.randn(3, 4, 5, generator=seeded(1))
ODDS = torch.randn(3, 4, generator=seeded(2))
FAILURE_RATE = 1e-4


def values_of(law) -> list[torch.Tensor]:
    support = law.enumerate_support()
    return [law.mean, law.variance, law.mode, law.entropy(), law.log_prob(support), support, law.logits, law.probs]


@pytest.mark.parametrize("parameter", ["logits", "probs"])
def test_categorical_agrees_with_torchs(parameter):
    given = LOGITS if parameter == "logits" else 3 * torch.softmax(LOGITS, -1)
    for ours, theirs in zip(
        values_of(ReparameterizedCategorical(**{parameter: given})),
        values_of(OneHotCategorical(**{parameter: given})),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("parameter", ["logits", "probs"])
def test_bernoulli_agrees_with_torchs(parameter):
    given = ODDS if parameter == "logits" else torch.sigmoid(ODDS)
    for ours, theirs in zip(
        values_of(ReparameterizedBernoulli(**{parameter: given})),
        values_of(Bernoulli(**{parameter: given})),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_enumerate_support_without_expansion_has_ones_for_the_batch():
    assert ReparameterizedCategorical(logits=LOGITS).enumerate_support(expand=False).shape == (5, 1, 1, 5)
    assert ReparameterizedBernoulli(logits=ODDS).enumerate_support(expand=False).shape == (2, 1, 1)


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_rsample_is_the_estimators_sample_and_gradient(name):
    logits = LOGITS.clone().requires_grad_()
    weights = torch.randn(2, 3, 4, 5, generator=seeded(3))
    x = ReparameterizedCategorical(logits=logits, estimator=name).rsample((2,), generator=seeded())
    wanted = catreparam.ESTIMATORS[name](logits.expand(2, 3, 4, 5), generator=seeded())
    assert torch.equal(x, wanted)
    found = [torch.autograd.grad((sample * weights).sum(), logits)[0] for sample in (x, wanted)]
    assert torch.equal(*found)


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_bernoulli_samples_are_the_second_of_two_classes(name):
    odds = ODDS.clone().requires_grad_()
    x = ReparameterizedBernoulli(logits=odds, estimator=name).rsample(generator=seeded())
    assert x.shape == odds.shape
    assert bool(((x == 0) | (x == 1)).all())
    assert bool(torch.autograd.grad((x * ODDS).sum(), odds)[0].isfinite().all())


def test_the_generator_of_the_constructor_is_the_default():
    def draws(law):
        return torch.cat([law.rsample(), law.sample()])

    one, two = (draws(ReparameterizedCategorical(logits=LOGITS, generator=seeded())) for _ in range(2))
    assert torch.equal(one, two)
    law = ReparameterizedCategorical(logits=LOGITS, generator=seeded(8))
    assert torch.equal(law.sample(generator=seeded(3)), law.sample(generator=seeded(3)))


@pytest.mark.statistical
def test_sample_follows_probs():  # fails once in 10,000 by chance
    law = ReparameterizedCategorical(logits=LOGITS[0, 0], estimator="redge")
    counts = law.sample((20_000,), generator=seeded()).sum(0)
    expected = 20_000 * torch.softmax(LOGITS[0, 0].double(), -1)
    assert stats.chisquare(counts.double().numpy(), expected.numpy()).pvalue > FAILURE_RATE


def test_sample_has_no_gradient_and_rsample_has():
    law = ReparameterizedCategorical(logits=LOGITS.clone().requires_grad_())
    assert not law.sample((2,)).requires_grad
    assert law.rsample().requires_grad
    assert law.has_rsample


def test_log_prob_passes_its_gradient_through_the_sample():
    prior = ReparameterizedCategorical(logits=LOGITS[0, 0])
    x = prior.sample().requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_prob(x), x)
    assert torch.allclose(gradient, torch.log_softmax(LOGITS[0, 0], -1))


def test_impossible_classes_have_log_prob_minus_inf_and_no_nan_anywhere():
    logits = torch.tensor([0.5, -torch.inf, 1.0], requires_grad=True)
    law = ReparameterizedCategorical(logits=logits)
    assert law.log_prob(torch.eye(3)).isneginf().tolist() == [False, True, False]
    other = ReparameterizedCategorical(logits=torch.tensor([0.0, -torch.inf, 0.0]))
    loss = law.entropy() + kl_divergence(law, other) + law.log_prob(torch.eye(3)[0]) + law.rsample()[2]
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert gradient[1] == 0


def test_vanishing_probs_get_no_gradient_instead_of_nan():
    probs = torch.tensor([0.25, 0.0, 0.75], requires_grad=True)
    law = ReparameterizedCategorical(probs=probs)
    (gradient,) = torch.autograd.grad((law.rsample() * torch.arange(3)).sum() + law.entropy(), probs)
    assert gradient.isfinite().all()
    assert gradient[1] == 0


PAIRS = [
    (ReparameterizedCategorical(logits=LOGITS), ReparameterizedCategorical(logits=LOGITS.flip(0))),
    (ReparameterizedCategorical(logits=LOGITS), OneHotCategorical(logits=LOGITS.flip(0))),
    (OneHotCategorical(logits=LOGITS), ReparameterizedCategorical(logits=LOGITS.flip(0))),
    (ReparameterizedBernoulli(logits=ODDS), ReparameterizedBernoulli(logits=ODDS.flip(0))),
    (ReparameterizedBernoulli(logits=ODDS), Bernoulli(logits=ODDS.flip(0))),
    (Bernoulli(logits=ODDS), ReparameterizedBernoulli(logits=ODDS.flip(0))),
]


@pytest.mark.parametrize(("p", "q"), PAIRS, ids=[f"{type(p).__name__}-{type(q).__name__}" for p, q in PAIRS])
def test_kl_agrees_with_torchs(p, q):
    base = OneHotCategorical if p.event_shape else Bernoulli
    wanted = kl_divergence(base(logits=p.logits), base(logits=q.logits))
    assert torch.allclose(kl_divergence(p, q), wanted, atol=1e-6)


def test_kl_is_infinite_where_the_prior_forbids_what_is_possible():
    free, bound = torch.zeros(3), torch.tensor([0.0, 0.0, -torch.inf])
    assert kl_divergence(ReparameterizedCategorical(logits=free), ReparameterizedCategorical(logits=bound)).isposinf()
    with pytest.raises(ValueError, match="same classes, got 3 and 2"):
        kl_divergence(ReparameterizedCategorical(logits=free), ReparameterizedCategorical(logits=free[:2]))


def test_independent_wraps_both():
    law = Independent(ReparameterizedCategorical(logits=LOGITS, estimator="redge"), 1)
    assert (law.batch_shape, law.event_shape) == ((3,), (4, 5))
    x = law.rsample((2,))
    assert law.log_prob(x).shape == (2, 3)
    assert kl_divergence(law, Independent(OneHotCategorical(logits=LOGITS), 1)).shape == (3,)
    assert Independent(ReparameterizedBernoulli(logits=ODDS), 1).log_prob(torch.ones(3, 4)).shape == (3,)


def test_expand_keeps_estimator_generator_and_values_per_row():
    temperature = torch.full((4,), 0.5)
    law = ReparameterizedCategorical(
        logits=LOGITS, estimator="gumbel_softmax", temperature=temperature, generator=seeded()
    ).expand((2, 3, 4))
    assert (law.batch_shape, law.rsample().shape) == ((2, 3, 4), (2, 3, 4, 5))
    assert law.hyperparameters == {"temperature": temperature}
    assert ReparameterizedCategorical(logits=LOGITS[:1]).expand((3, 4)).log_prob(torch.eye(5)[0]).shape == (3, 4)
    assert ReparameterizedBernoulli(logits=ODDS).expand((2, 3, 4)).rsample().shape == (2, 3, 4)


def test_every_row_is_drawn_with_its_own_value():
    def scaled(logits, *, t1, generator=None):
        assert t1.shape == (3, 1, 1)
        return logits * t1

    values = torch.tensor([[0.5], [2.0], [0.5]])
    x = ReparameterizedCategorical(logits=LOGITS, estimator=scaled, t1=values).rsample((2,))
    assert torch.equal(x, (LOGITS * values.unsqueeze(-1)).expand(2, 3, 4, 5))


def test_gumbel_softmax_takes_values_per_row_in_one_call(monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "naive")  # the naive path, whose noise this is
    logits, weights = LOGITS[0].clone().requires_grad_(), torch.randn(4, 5, generator=seeded(5))

    def gradient(temperature):
        law = ReparameterizedCategorical(logits=logits, estimator="gumbel_softmax", temperature=temperature)
        return torch.autograd.grad((law.rsample(generator=seeded(1)) * weights).sum(), logits)[0]

    values = torch.tensor([0.3, 0.9, 2.0, 0.3])
    found = gradient(values)
    for row, value in enumerate(values.tolist()):
        assert torch.allclose(found[row], gradient(value)[row], atol=1e-6)


def test_a_constant_tensor_is_that_number():
    x = [
        ReparameterizedCategorical(logits=LOGITS, estimator="redge", t1=t1).rsample((2,), generator=seeded())
        for t1 in (0.4, torch.tensor(0.4, dtype=torch.float64))
    ]
    assert torch.equal(*x)


def test_rows_with_values_of_their_own_stay_in_their_places():
    logits = torch.full((6, 3), -torch.inf).index_put(
        (torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])), torch.zeros(6)
    )
    t1 = torch.tensor([0.3, 0.5, 0.3, 0.9, 0.5, 0.1])
    x = ReparameterizedCategorical(logits=logits, estimator="redge", t1=t1).rsample((2,))
    assert x.argmax(-1).tolist() == [[0, 1, 2, 0, 1, 2]] * 2


def test_a_tensor_temperature_of_gumbel_softmax_is_learnable_and_others_say_no():
    temperature = torch.full((3, 4), 0.7, requires_grad=True)
    x = ReparameterizedCategorical(logits=LOGITS, estimator="gumbel_softmax", temperature=temperature).rsample()
    (gradient,) = torch.autograd.grad((x * LOGITS).sum(), temperature)
    assert gradient.shape == (3, 4)
    with pytest.raises(ValueError, match=r"reinmax gives temperature no gradient; pass temperature.detach"):
        ReparameterizedCategorical(logits=LOGITS, temperature=temperature).rsample()


@pytest.mark.parametrize("make", [pickle.dumps, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_distributions_pickle_and_copy(make):
    for law in (
        ReparameterizedCategorical(logits=LOGITS, estimator=make_estimator("redge", t1=0.3)),
        ReparameterizedBernoulli(logits=ODDS),
    ):
        twin = make(law)
        twin = pickle.loads(twin) if isinstance(twin, bytes) else twin
        assert torch.equal(law.rsample(generator=seeded()), twin.rsample(generator=seeded()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_value_keeps_the_dtype(dtype):
    for law in (
        ReparameterizedCategorical(logits=LOGITS.to(dtype), estimator="redge", unimix=0.1),
        ReparameterizedBernoulli(logits=ODDS.to(dtype)),
    ):
        assert {value.dtype for value in [*values_of(law), law.rsample(), law.sample()]} == {dtype}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "give probs or logits"),
        ({"logits": LOGITS, "probs": LOGITS.exp()}, ValueError, "not both"),
        ({"logits": LOGITS * torch.nan}, ValueError, "NaN"),
        ({"logits": torch.full((2, 3), -torch.inf)}, ValueError, "allow no class"),
        ({"probs": -torch.ones(3)}, ValueError, "probs must not be negative"),
        ({"probs": torch.zeros(2, 3)}, ValueError, "allow no class"),
        ({"probs": [0.5, 0.5]}, TypeError, "probs must be a floating"),
        ({"logits": torch.ones(3, dtype=torch.long)}, TypeError, "floating"),
        ({"logits": LOGITS, "estimator": "regde"}, ValueError, "Did you mean 'redge'"),
        ({"logits": LOGITS, "estimator": 3}, TypeError, "a name or a callable"),
        (
            {"logits": LOGITS, "estimator": "straight_through", "t1": 0.5},
            ValueError,
            "no hyperparameter 't1'; it runs no diffusion",
        ),
        (
            {"logits": LOGITS, "estimator": "redge", "temperature": 1.0},
            ValueError,
            "has no hyperparameter 'temperature'",
        ),
        ({"logits": LOGITS, "temperature": 0.0}, ValueError, "temperature must be greater than 0, got 0"),
        ({"logits": LOGITS, "temperature": torch.zeros(4)}, ValueError, "greater than 0 in every row"),
        (
            {"logits": LOGITS, "temperature": torch.ones(3, 4, 1)},
            ValueError,
            r"\(3, 4, 1\) must broadcast to .* \(3, 4\)",
        ),
        ({"logits": LOGITS, "temperature": torch.ones(5)}, ValueError, "one value per row"),
        ({"logits": LOGITS, "generator": 3}, TypeError, "torch.Generator"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ReparameterizedCategorical(**arguments)


@pytest.mark.parametrize("name", SCORE_FUNCTION)
def test_score_function_methods_point_to_expectation(name):
    with pytest.raises(ValueError, match=f"{name} needs the objective.*catreparam.expectation"):
        ReparameterizedCategorical(logits=LOGITS, estimator=name)


def test_bad_values_and_bad_odds_are_named():
    with pytest.raises(ValueError, match="value argument"):
        ReparameterizedCategorical(logits=LOGITS).log_prob(torch.full((5,), 0.2))
    with pytest.raises(ValueError, match="value argument"):
        ReparameterizedBernoulli(logits=ODDS).log_prob(torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"probs must lie in \[0, 1\]"):
        ReparameterizedBernoulli(probs=torch.tensor(1.5))
    with pytest.raises(TypeError, match="logits must be a floating"):
        ReparameterizedBernoulli(logits=[0.5])


def test_validation_can_be_left_out():
    law = ReparameterizedCategorical(logits=LOGITS, validate_args=False)
    assert law.log_prob(torch.full((5,), 0.2)).shape == (3, 4)
    with pytest.raises(ValueError, match="must keep the shape"):
        ReparameterizedCategorical(logits=LOGITS, estimator=lambda logits: logits[0]).rsample()
