"""Every divergence that torch knows of OneHotCategorical and Bernoulli is known of ours, and right at the edges."""

import numpy as np
import pytest
import torch
from torch import inf
from torch.distributions import Bernoulli, Independent, OneHotCategorical, Poisson, kl_divergence
from torch.distributions.kl import _KL_REGISTRY

from catreparam.distributions import ReparameterizedBernoulli, ReparameterizedCategorical
from methods import seeded

LOGITS = torch.randn(3, 4, 5, generator=seeded(1))
TWIN_PAIRS = [pair for pair in _KL_REGISTRY if set(pair) & {OneHotCategorical, Bernoulli}]
OURS = {OneHotCategorical: ReparameterizedCategorical, Bernoulli: ReparameterizedBernoulli}


def example(cls):
    if cls in (OneHotCategorical, ReparameterizedCategorical):
        return cls(logits=LOGITS)
    return cls(LOGITS[..., 0].sigmoid().roll(1))


@pytest.mark.parametrize("pair", TWIN_PAIRS, ids=lambda pair: "-".join(cls.__name__ for cls in pair))
def test_every_divergence_that_torch_knows_of_the_twins_is_known_of_ours(pair):
    wanted = kl_divergence(*(example(cls) for cls in pair))
    mixed = [tuple(OURS.get(cls, cls) if chosen else cls for cls, chosen in zip(pair, choice, strict=True))
             for choice in ((True, True), (True, False), (False, True))]  # fmt: skip
    for ours in mixed:
        torch.testing.assert_close(kl_divergence(*(example(cls) for cls in ours)), wanted, atol=1e-6, rtol=1e-5)
        masked = [Independent(example(cls), 1) for cls in ours]
        torch.testing.assert_close(kl_divergence(*masked), wanted.sum(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("law", OURS.values())
def test_divergences_of_half_precision_are_computed_in_float32(law, dtype):
    near = [LOGITS.to(dtype), (1.02 * LOGITS).to(dtype)]  # what rounding their log-probabilities would bury
    pairs = {
        "own": lambda cast: kl_divergence(law(logits=cast(near[0])), law(logits=cast(near[1]))),
        "poisson": lambda cast: kl_divergence(
            ReparameterizedBernoulli(logits=cast(near[0])), Poisson(torch.tensor(0.7))
        ),
    }
    for kl in pairs.values():
        torch.testing.assert_close(kl(torch.clone).double(), kl(torch.Tensor.double), atol=1e-6, rtol=1e-4)


def test_divergences_at_the_edges():
    def kl(p, q):
        return kl_divergence(p, q).tolist()

    def flip(value):
        return ReparameterizedBernoulli(torch.tensor(value))

    assert kl(flip([0.0, 1.0, 0.0, 1.0]), flip([0.0, 1.0, 1.0, 0.0])) == [0.0, 0.0, inf, inf]
    assert kl(flip(0.0), Poisson(0.0)) == 0.0
    assert kl(flip(0.5), Poisson(0.0)) == inf
    assert kl(Poisson(torch.tensor([0.0, 2.0])), flip(0.5)) == pytest.approx([np.log(2), inf])
    given = torch.tensor([-inf, 0.3], requires_grad=True)
    divergence = kl_divergence(ReparameterizedBernoulli(logits=given), Poisson(torch.tensor([0.0, 0.4]))).sum()
    gradient = torch.autograd.grad(divergence, given)[0]
    assert gradient[0] == 0
    assert gradient[1].isfinite()


@pytest.mark.parametrize("ours", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("twin", OURS)
def test_what_torch_clamps_is_exact_beside_ours(twin, ours):
    small = torch.tensor([0.0, 1e-9, 0.3, 1.0])
    p, q = torch.cartesian_prod(small, small).unbind(-1)
    wide = p.double(), q.double()
    pairs = (wide, (1 - wide[0], 1 - wide[1]))
    wanted = sum(torch.where(a > 0, a * (a / b).log(), 0.0) for a, b in pairs)
    given = (p, q) if twin is Bernoulli else (torch.stack((1 - p, p), -1), torch.stack((1 - q, q), -1))
    found = kl_divergence(*((OURS[twin] if chosen else twin)(x) for x, chosen in zip(given, ours, strict=True)))
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("twin", OURS)
def test_products_of_laws_keep_what_torch_forbids_and_name_other_laws(twin):
    forbids = torch.tensor(0.0) if twin is Bernoulli else torch.tensor([0.0, 0.4, 0.6])
    law = OURS[twin](torch.tensor(0.5) if twin is Bernoulli else torch.full((3,), 1 / 3))
    torch.testing.assert_close(law.conjugate_update(twin(forbids))[0].probs, forbids, atol=1e-7, rtol=0)
    with pytest.raises(TypeError, match=r"other must be a .*law.*Poisson"):
        law.conjugate_update(Poisson(1.0))
