"""What PyTorch's and Pyro's own tests ask of one-hot and Bernoulli distributions, asked of ours beside theirs."""

import numpy as np
import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
    TransformedDistribution,
    kl_divergence,
)
from torch.distributions.transforms import AffineTransform
from torch.func import jacfwd, vmap

from catreparam.distributions import ReparameterizedBernoulli, ReparameterizedCategorical
from methods import REPARAMETERISED, seeded

LOGITS = torch.randn(3, 4, 5, generator=seeded(1))
ONE_HOT, BITS = torch.eye(5)[torch.arange(12).view(3, 4) % 5], (torch.arange(12.0).view(3, 4) % 2)
TWINS = {ReparameterizedCategorical: OneHotCategoricalStraightThrough, ReparameterizedBernoulli: Bernoulli}
POINTS = {ReparameterizedCategorical: ONE_HOT, ReparameterizedBernoulli: BITS}
laws = pytest.mark.parametrize("ours", TWINS)
parameters = pytest.mark.parametrize("parameter", ["logits", "probs"])
inf, nan = torch.inf, torch.nan


def parameter_of(law, parameter):
    if law in (ReparameterizedCategorical, OneHotCategoricalStraightThrough):
        return LOGITS if parameter == "logits" else LOGITS.softmax(-1)
    return LOGITS[..., 0] if parameter == "logits" else LOGITS[..., 0].sigmoid()


VALUES = {
    "log_prob": lambda law, x: law.log_prob(x),
    "entropy": lambda law, x: law.entropy(),
    "perplexity": lambda law, x: law.perplexity(),
    "mean": lambda law, x: law.mean,
    "variance": lambda law, x: law.variance,
    "stddev": lambda law, x: law.stddev,
    "logits": lambda law, x: law.logits,
    "probs": lambda law, x: law.probs,
    "kl": lambda law, x: kl_divergence(law, type(law)(probs=0.5 * law.probs.flip(0) + 0.1, validate_args=False)),
    "transformed": lambda law, x: TransformedDistribution(law, affine(law)).log_prob(3 * x + 1),
    "mixture": lambda law, x: MixtureSameFamily(Categorical(torch.ones(4)), law).log_prob(x[0, 0]),
    "independent": lambda law, x: Independent(law, 1).log_prob(x) + Independent(law, 1).entropy(),
    "expanded": lambda law, x: law.expand((2, *law.batch_shape)).log_prob(x) - law.expand((2, 3, 4)).entropy(),
}


def affine(law):
    return [AffineTransform(1.0, 3.0, event_dim=law.support.event_dim)]


def weighted(value):
    return (value * torch.arange(value.numel()).view_as(value).sin()).sum()


HOWS = {
    "eager": lambda f, given, x: f(given, x),
    "gradient": lambda f, given, x: torch.autograd.grad(weighted(f(leaf := given.clone().requires_grad_(), x)), leaf)[
        0
    ],
    "forward mode": lambda f, given, x: jacfwd(f)(given, x),
    "traced": lambda f, given, x: torch.jit.trace(f, (given.flip(-1), x), check_trace=False)(given, x),
}


@pytest.mark.filterwarnings("ignore::Warning")  # torch's own, while it traces
@laws
@parameters
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("what", VALUES)
def test_values_and_derivatives_are_those_of_torchs_twin(ours, parameter, how, what):
    def value(cls):
        def f(given, x):
            return VALUES[what](cls(**{parameter: given}, validate_args=False), x).contiguous()

        return HOWS[how](f, parameter_of(cls, parameter), POINTS[ours])

    torch.testing.assert_close(value(ours), value(TWINS[ours]), atol=5e-6, rtol=1e-4)


@laws
def test_vmap_gives_every_value_row_by_row(ours):
    given = parameter_of(ours, "logits")
    for f in VALUES.values():
        rows = [f(ours(logits=given[i : i + 1], validate_args=False), POINTS[ours][i : i + 1]) for i in range(3)]

        def row(logits, x, f=f):
            return f(ours(logits=logits.unsqueeze(0), validate_args=False), x.unsqueeze(0))

        torch.testing.assert_close(vmap(row)(given, POINTS[ours]), torch.stack(rows))


@pytest.mark.parametrize("number", [0.3, 0, 1, True, 1e-3, np.float32(0.25), np.int64(1)])
def test_bernoulli_takes_numbers(number):
    ours, twin = ReparameterizedBernoulli(number), Bernoulli(float(number))
    assert (ours.batch_shape, ours.sample((3, 2)).shape, ours.rsample().shape) == ((), (3, 2), ())
    torch.testing.assert_close(ours.mean, twin.mean)
    torch.testing.assert_close(ours.entropy(), twin.entropy(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ReparameterizedBernoulli(logits=number).probs, torch.tensor(float(number)).sigmoid())
    with torch.device("meta"):
        assert ReparameterizedBernoulli(number).mean.is_meta


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"probs": 1.00001}, ValueError, r"probs must lie in \[0, 1\]"),
        ({"probs": -1}, ValueError, r"probs must lie in \[0, 1\]"),
        ({"probs": nan}, ValueError, r"probs must lie in \[0, 1\]"),
        ({"logits": inf}, ValueError, r"logits hold \+inf"),
        ({"logits": nan}, ValueError, "NaN"),
        ({"logits": "0.3"}, TypeError, "logits must be a floating torch.Tensor or a number, got '0.3'"),
        ({"probs": [0.3]}, TypeError, "probs must be a floating torch.Tensor or a number"),
        ({"probs": 0.3, "logits": 0.3}, ValueError, "not both"),
        ({"probs": 0.3, "unimix": 1.5}, ValueError, "unimix must be at least 0 and at most 1, got 1.5"),
        ({"probs": 0.3, "unimix": "a"}, TypeError, "unimix must be a real number"),
    ],
)
def test_bad_numbers_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ReparameterizedBernoulli(**arguments)


def test_counts_are_probabilities_as_in_torch():
    counts = torch.tensor([[1, 2, 1], [0, 5, 0]])
    torch.testing.assert_close(ReparameterizedCategorical(counts).probs, OneHotCategorical(counts).probs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_of_the_parameters(dtype):
    """Rows: parameter, its value, x, log P(x), gradient."""
    large = 0.3 * torch.finfo(dtype).max
    for name, given, x, wanted, slope in (
        ("probs", 0.0, 0.0, 0.0, 0.0),
        ("probs", 0.0, 1.0, -inf, 0.0),
        ("probs", 1.0, 1.0, 0.0, 0.0),
        ("probs", 1e-4, 1.0, np.log(1e-4), 1e4),
        ("probs", 1 - 1e-4, 0.0, np.log(1e-4), -1e4),
        ("logits", np.log(9999), 0.0, np.log(1e-4), -1.0),
        ("logits", -large, 0.0, 0.0, 0.0),
        ("logits", large, 1.0, 0.0, 0.0),
        ("logits", -inf, 0.0, 0.0, 0.0),
    ):
        leaf = torch.tensor(given, dtype=dtype, requires_grad=True)
        found = ReparameterizedBernoulli(**{name: leaf}).log_prob(torch.tensor(x, dtype=dtype))
        gradient = torch.autograd.grad(found, leaf)[0]
        for value, target in ((found, wanted), (gradient, slope)):
            torch.testing.assert_close(value.detach(), torch.tensor(target, dtype=dtype), atol=1e-3, rtol=2e-4)
    odds = torch.tensor([1e-9, -1e-30, 3e38, -inf], dtype=dtype)
    assert torch.equal(ReparameterizedBernoulli(logits=odds).logits, odds)  # not rounded


@laws
def test_log_prob_takes_integers_and_booleans_and_says_what_it_does_not_take(ours):
    law, x = ours(logits=parameter_of(ours, "logits")), POINTS[ours]
    for dtype in (torch.bool, torch.int64, torch.float16, torch.float64):
        torch.testing.assert_close(law.log_prob(x.to(dtype)), law.log_prob(x))
    for bad in (x * nan, -x - 1, x[..., :1, :2], 1.0):
        with pytest.raises(ValueError, match=r"[Vv]alue"):
            law.log_prob(bad)
    free = ReparameterizedBernoulli(0.25, validate_args=False)
    torch.testing.assert_close(free.log_prob(1), torch.tensor(0.25).log())


@pytest.mark.parametrize("unimix", [0.01, 0.3, 1.0, torch.tensor([0.3, 0.0, 1.0, 0.01])])
@laws
def test_unimix_mixes_with_the_uniform_law(ours, unimix):
    given, x = parameter_of(ours, "logits").double().requires_grad_(), POINTS[ours].double()
    count = 5 if ours is ReparameterizedCategorical else 2
    base = given.softmax(-1) if count == 5 else given.sigmoid()
    weight = unimix.view(4, *[1] * (base.ndim - 2)) if isinstance(unimix, torch.Tensor) else unimix
    wanted = (1 - weight) * base + weight / count
    law = ours(logits=given, unimix=unimix)
    twin = TWINS[ours](probs=wanted)
    for ours_value, value in (
        (law.probs, wanted),
        (law.expand((2, 3, 4)).mean[1], wanted),
        (ours(probs=base, unimix=unimix).probs, wanted),
        (law.entropy(), twin.entropy()),
        (law.log_prob(x), twin.log_prob(x)),
        (kl_divergence(law, ours(logits=given.detach())), kl_divergence(twin, TWINS[ours](logits=given.detach()))),
    ):
        torch.testing.assert_close(ours_value, value)
        slopes = [torch.autograd.grad(weighted(v), given, retain_graph=True)[0] for v in (ours_value, value)]
        torch.testing.assert_close(*slopes, atol=1e-6, rtol=1e-6)


def test_a_tensor_of_weights_gets_a_gradient_and_is_checked():
    unimix, p = torch.tensor([0.0, 0.2, 0.9, 1.0], requires_grad=True), LOGITS.softmax(-1)
    means = ReparameterizedCategorical(logits=LOGITS, unimix=unimix).mean, p + unimix[:, None] * (0.2 - p)
    torch.testing.assert_close(*(torch.autograd.grad(weighted(mean), unimix)[0] for mean in means))
    for bad, message in ((torch.ones(5), "one value per row"), (torch.tensor([0.1, 0.2, -0.1, 2.0]), "in every row")):
        with pytest.raises(ValueError, match=message):
            ReparameterizedCategorical(logits=LOGITS, unimix=bad)


@pytest.mark.parametrize("forbidden", [-inf, torch.finfo(torch.float32).min])
def test_unimix_leaves_forbidden_classes_forbidden(forbidden):
    given = torch.tensor([0.0, forbidden, 200.0, -200.0], requires_grad=True)
    law = ReparameterizedCategorical(logits=given, unimix=0.3)
    torch.testing.assert_close(law.probs, torch.tensor([0.1, 0.0, 0.8, 0.1]))
    loss = law.entropy() + law.rsample((50,), generator=seeded()).square().sum()
    assert not law.sample((500,), generator=seeded())[:, 1].any()
    gradient = torch.autograd.grad(loss, given)[0]
    assert gradient[1] == 0
    assert gradient.isfinite().all()
    assert ReparameterizedBernoulli(torch.tensor([0.0, 1.0]), unimix=0.5).probs.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_every_estimator_is_handed_the_mixed_logits(name):
    def draw(**arguments):
        given = LOGITS.clone().requires_grad_()
        logits = arguments.pop("of")(given)
        x = ReparameterizedCategorical(logits=logits, estimator=name, **arguments).rsample((2,), generator=seeded())
        return x, torch.autograd.grad(weighted(x), given)[0]

    mixed = draw(of=lambda logits: (0.9 * logits.softmax(-1) + 0.02).log())
    for found, wanted in zip(draw(of=lambda logits: logits, unimix=0.1), mixed, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@laws
@parameters
def test_the_mode_has_the_gradient_of_the_probabilities(ours, parameter):
    given = parameter_of(ours, parameter).clone().requires_grad_()
    law = ours(**{parameter: given})
    assert torch.equal(law.mode, TWINS[ours](**{parameter: given.detach()}).mode)
    found, wanted = (torch.autograd.grad(weighted(v), given, retain_graph=True)[0] for v in (law.mode, law.mean))
    assert torch.equal(found, wanted)
    assert found.any()
    torch.testing.assert_close(torch.autograd.grad(weighted(Independent(law, 1).mode), given)[0], wanted)


@laws
@parameters
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_values_seen_without_gradient_have_it_later(ours, parameter, mode):
    law = ours(**{parameter: parameter_of(ours, parameter).clone().requires_grad_()})
    with mode():
        seen = [law.mean, law.logits, law.mode, law.entropy()]
    later = [law.mean, law.logits, law.mode, law.entropy()]
    assert not any(value.requires_grad for value in seen)
    assert all(value.requires_grad and not value.is_inference() for value in later)


def test_the_mode_of_masked_logits_gives_them_no_gradient():
    given = torch.tensor([0.5, -inf, 1.0], requires_grad=True)
    law = ReparameterizedCategorical(logits=given)
    assert law.mode.tolist() == [0.0, 0.0, 1.0]
    gradient = torch.autograd.grad(law.mode @ torch.tensor([1.0, 2.0, 3.0]), given)[0]
    assert gradient[1] == 0
    assert gradient.isfinite().all()
