"""The laws of guided samplers, against those of a table."""

import pytest
import torch

from catreparam.guidance import (
    best_of_n,
    smc,
    svdd,
)
from catreparam.guidance.smc import _resampled
from guidance_bed import ONE_BY_ONE, chain, linear_reward, masked, pair_reward, product
from methods import seeded

# An empirical law of 5,000 draws over 27 outcomes has a total variation of about .025 from its own, with a standard
# deviation of .004: each bound below leaves five of them (1e-6), and room for the bias of 32 particles.
NUM_RUNS = 5_000


def law_of(result) -> torch.Tensor:
    return torch.bincount(chain(3).index(result.tokens), minlength=27).double() / result.tokens.shape[0]


def total_variation(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().sum() / 2)


@pytest.mark.statistical
def test_many_particles_follow_the_tilted_law():
    target = chain(3).tilted(pair_reward).log_probs.exp()
    few, many = (
        smc(
            chain(3),
            pair_reward,
            masked(NUM_RUNS),
            num_particles=n,
            select="draw",
            generator=seeded(),
            **ONE_BY_ONE,
        )
        for n in (2, 32)
    )
    assert total_variation(law_of(many), target) < 0.065
    assert total_variation(law_of(few), target) > 0.15
    assert total_variation(chain(3).log_probs.exp(), target) > 0.3


@pytest.mark.statistical
@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_tilted_law_does_not_depend_on_when_particles_are_resampled(threshold):
    target = chain(3).tilted(pair_reward).log_probs.exp()
    result = smc(
        chain(3),
        pair_reward,
        masked(NUM_RUNS),
        num_particles=32,
        ess_threshold=threshold,
        select="draw",
        generator=seeded(),
        **ONE_BY_ONE,
    )
    assert total_variation(law_of(result), target) < 0.065


@pytest.mark.statistical
def test_without_reward_weight_smc_and_svdd_follow_the_prior():
    settings = {"reward_weight": 0.0, "generator": seeded(), **ONE_BY_ONE}
    for result in (
        smc(chain(3), pair_reward, masked(NUM_RUNS), num_particles=4, select="draw", **settings),
        svdd(chain(3), pair_reward, masked(NUM_RUNS), num_candidates=4, **settings),
    ):
        assert total_variation(law_of(result), chain(3).log_probs.exp()) < 0.045


@pytest.mark.statistical
def test_best_of_n_follows_the_law_of_the_maximum():
    result = best_of_n(chain(3), pair_reward, masked(NUM_RUNS), num_candidates=3, generator=seeded(), **ONE_BY_ONE)
    denoiser = chain(3)
    rewards, probs = pair_reward(torch.eye(3)[denoiser.sequences]), denoiser.log_probs.exp()
    expected = torch.zeros(27, dtype=torch.double)
    for value in rewards.unique():  # P(max = value), shared among ties as the prior does
        same, below = (rewards - value).abs() < 1e-6, rewards < value - 1e-6
        mass = (probs[same].sum() + probs[below].sum()) ** 3 - probs[below].sum() ** 3
        expected[same] = mass * probs[same] / probs[same].sum()
    assert total_variation(law_of(result), expected) < 0.045


@pytest.mark.statistical
def test_one_round_of_soft_svdd_is_self_normalised_importance_sampling():
    """With many candidates the selected one follows the tilted law; here a product, by one round."""
    logits = torch.randn(3, 3, generator=seeded(2))
    result = svdd(
        product(logits),
        linear_reward,
        masked(NUM_RUNS),
        num_candidates=64,
        reward_weight=1.0,
        num_rounds=1,
        generator=seeded(),
    )
    target = torch.softmax(logits + torch.tensor([0.0, 0.4, 1.0]), -1)
    found = torch.nn.functional.one_hot(result.tokens, 3).double().mean(0)
    assert float((found - target).abs().max()) < 0.04  # 5 standard errors of .007, and the bias of 64 candidates


def test_systematic_resampling_gives_every_particle_its_share():
    log_weight = torch.tensor([[0.5, 0.25, 0.125, 0.125], [1.0, 1.0, 1.0, 1.0]]).log()
    ancestor, after, effective = _resampled(log_weight, 4.0, seeded())
    assert ancestor[:4].tolist()[:3] == [0, 0, 1]
    assert ancestor[4:].tolist() == [4, 5, 6, 7]
    assert not bool(after[0].any())
    assert effective == pytest.approx((1 / (0.25 + 0.0625 + 2 / 64) + 4) / 2, rel=1e-5)


def test_resampling_waits_for_a_low_effective_number():
    log_weight = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    ancestor, after, _ = _resampled(log_weight, 2.0, seeded())
    assert ancestor.tolist() == [0, 1, 2, 3]
    assert torch.equal(after, log_weight)
