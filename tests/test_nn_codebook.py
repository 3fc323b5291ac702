"""VectorQuantizer: the choice, the start and care of its codebook, what it learns."""

import copy
import pickle

import pytest
import torch

from catreparam import ESTIMATORS
from catreparam.nn import VectorQuantizer
from catreparam.schedules import ExponentialSchedule
from methods import seeded

CENTRES = 3 * torch.randn(8, 4, generator=seeded(1))
FEATURES = CENTRES[torch.arange(160) % 8] + 0.1 * torch.randn(160, 4, generator=seeded(2))
PLAIN = {"kmeans_steps": 0, "replace_after": 0}


def made(**settings) -> VectorQuantizer:
    return VectorQuantizer(4, **{"num_codes": 8, "generator": seeded(3), **settings})


def test_eval_mode_takes_the_nearest_code():
    module = made().eval()
    found = module(FEATURES.view(8, 20, 4))
    nearest = torch.cdist(FEATURES.view(8, 20, 4), module.codebook).argmin(-1)
    assert torch.equal(found.indices, nearest)
    assert torch.allclose(found.quantized, module.codebook[nearest])
    assert torch.allclose(found.commitment_loss, 0.25 * (FEATURES.view(8, 20, 4) - found.quantized).square().mean())
    assert module.num_batches == 0


@pytest.mark.parametrize("name", ["reinmax", "redge", "gumbel_softmax"])
def test_training_draws_by_distance_with_the_estimators_gradient(name):
    module = made(estimator=name, temperature=0.3, commitment=0.0, **PLAIN)
    upstream, gradients = torch.randn(160, 4, generator=seeded(4)), []
    spread = module.codebook.detach().var(0, correction=0).sum()
    for by_hand in (False, True):
        inputs = FEATURES.clone().requires_grad_()
        if by_hand:
            logits = -(inputs.unsqueeze(1) - module.codebook).square().sum(-1) / (0.3 * spread)
            quantized = ESTIMATORS[name](logits, generator=seeded(5)) @ module.codebook
        else:
            quantized = module(inputs, generator=seeded(5)).quantized
        gradients.append([quantized, *torch.autograd.grad((quantized * upstream).sum(), [inputs, module.codebook])])
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*gradients, strict=True))


def test_the_codebook_starts_at_the_clusters_of_the_first_batch():
    module = made(num_codes=24)  # three codes a cluster, so that every cluster gets one
    module(FEATURES)
    gaps = torch.cdist(CENTRES, module.codebook.detach()).min(-1).values
    assert gaps.max() < 0.15
    before = module.codebook.detach().clone()
    module(FEATURES + 5)
    assert torch.equal(module.codebook, before)
    few = made(num_codes=24)
    few(FEATURES[:3])
    assert torch.cdist(FEATURES[:3], few.codebook.detach()).min(0).values.max() < 1e-3


def test_codes_that_are_not_used_are_put_on_features():
    module = made(kmeans_steps=0, replace_after=3)
    with torch.no_grad():
        module.codebook[5] = 100.0
    for _ in range(3):
        module(FEATURES)
    assert module.idle[5] == 3
    assert module.codebook[5, 0] == 100
    module(FEATURES)
    assert bool((module.codebook[5] == FEATURES).all(-1).any())
    assert module.usage.sum().item() == pytest.approx(1)
    assert 1 <= module.perplexity <= 8


def test_a_schedule_moves_the_temperature():
    schedule = ExponentialSchedule(100.0, 1e-4, num_steps=10)
    module = made(temperature=schedule, **PLAIN)
    hot = module(FEATURES, generator=seeded()).indices
    schedule.step(10)
    cold = module(FEATURES, generator=seeded()).indices
    assert torch.equal(cold, module.eval()(FEATURES).indices)
    assert not torch.equal(hot, cold)


def test_it_learns_clusters():
    """Reconstruction through a quantiser and the commitment loss alone, from a codebook that misses them."""
    module, encoder = made(num_codes=16), torch.nn.Linear(4, 4)
    torch.nn.init.eye_(encoder.weight)
    torch.nn.init.zeros_(encoder.bias)
    optimizer = torch.optim.Adam([*module.parameters(), *encoder.parameters()], lr=1e-2)
    generator = seeded(6)
    for _ in range(60):
        found = module(encoder(FEATURES), generator=generator)
        loss = (found.quantized - FEATURES).square().mean() + found.commitment_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (module.eval()(encoder(FEATURES)).quantized - FEATURES).square().mean() < 0.05


def test_features_far_from_zero_keep_their_nearest_code():
    module = made(**PLAIN).eval()
    with torch.no_grad():
        module.codebook.copy_(CENTRES + 1000)
    assert torch.equal(module(FEATURES + 1000).indices, torch.arange(160) % 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_codes_keep_the_dtype_of_the_features(dtype):
    for module in (made(), made().to(dtype)):
        found = module(FEATURES.to(dtype))
        assert found.quantized.dtype == dtype
        found.quantized.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        assert made()(FEATURES).quantized.dtype == torch.float32


def test_a_codebook_of_one_code_or_of_equal_codes_has_finite_gradients():
    for module in (made(num_codes=1), made(**PLAIN)):
        with torch.no_grad():
            module.codebook.fill_(0.5)
        inputs = FEATURES.clone().requires_grad_()
        found = module(inputs)
        (found.quantized.sum() + found.commitment_loss).backward()
        assert bool(inputs.grad.isfinite().all())
        assert bool(module.codebook.grad.isfinite().all())


def test_state_dict_goes_round_and_modules_copy_and_pickle():
    module, twin = made(), made()
    module(FEATURES)
    twin.load_state_dict(module.state_dict())
    for other in (twin, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(
            other(FEATURES, generator=seeded()).indices, copy.deepcopy(module)(FEATURES, generator=seeded()).indices
        )
    assert list(module.state_dict()) == ["codebook", "usage", "num_batches", "idle"]
    assert repr(module) == "VectorQuantizer(4, num_codes=8, estimator=reinmax)"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_codes": 0}, ValueError, "num_codes must be at least 1"),
        ({"temperature": 0.0}, ValueError, "temperature must be greater than 0"),
        ({"commitment": -1.0}, ValueError, "commitment must be at least 0"),
        ({"replace_after": -1}, ValueError, "replace_after must be at least 0"),
        ({"estimator": "rloo"}, ValueError, "rloo needs the objective"),
    ],
)
def test_bad_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        made(**settings)


def test_features_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"features must have size 4, got shape \(2, 3\)"):
        made()(torch.zeros(2, 3))
