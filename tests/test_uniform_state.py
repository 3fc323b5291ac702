"""Uniform-state diffusion: steps, samples and guided laws against Bayes' rule and tables of all sequences."""

import itertools
import math

import pytest
import torch
from scipy import stats

from catreparam.guidance import best_of_n, guided_sample, smc, svdd
from catreparam.masked_diffusion import (
    ClassifierFree,
    Corruption,
    Masked,
    ReverseProcess,
    Uniform,
    Unmasking,
    as_denoiser,
    sample,
)
from guidance_bed import LINEAR_WEIGHTS, chain, linear_reward, pair_reward
from methods import seeded

V, L, BLANK = 3, 3, 3
UNIFORM = Uniform(V)
LOGITS = torch.randn(L, V, generator=seeded(3))
SEQUENCES = torch.tensor(list(itertools.product(range(V), repeat=L)))
FAILURE_RATE = 1e-6
NUM_RUNS = 5_000  # see test_guidance_laws.py: an empirical law has a total variation of .025 ± .004 from its own


def kept(level):
    """q(noisy | clean) [clean, noisy]."""
    return (1 - level) * torch.eye(V, dtype=torch.double) + level / V


def product():
    """Independent positions: what the network says of a position does not depend on its own token."""

    def posterior(tokens, noise_level):
        return UNIFORM.posterior(LOGITS.expand(*tokens.shape, V), tokens, noise_level)

    return as_denoiser(posterior, mask_token=BLANK, corruption=UNIFORM)


def table():
    """The exact posterior marginals of a Markov chain, by enumeration of its 27 sequences."""
    log_probs = chain(L).log_probs

    def posterior(tokens, noise_level):
        law = torch.stack([kept(float(level)).log() for level in noise_level])  # [B, clean, noisy]
        rows = torch.arange(len(tokens)).view(-1, 1, 1)
        weights = log_probs + law[rows, SEQUENCES, tokens.unsqueeze(1)].sum(-1)  # [B, 27]
        one_hot = torch.nn.functional.one_hot(SEQUENCES, V).double()
        return torch.einsum("bs,slv->blv", weights.softmax(-1), one_hot).log().float()

    return as_denoiser(posterior, mask_token=BLANK, corruption=UNIFORM)


def blank(batch):
    return torch.full((batch, L), BLANK)


def law_of(result):
    return torch.bincount(chain(L).index(result.tokens), minlength=V**L).double() / len(result.tokens)


def law_of_product(logits):
    return torch.log_softmax(logits.double(), -1)[torch.arange(L), SEQUENCES].sum(-1).exp()


def total_variation(one, two):
    return float((one - two).abs().sum() / 2)


def by_bayes(present, clean, before, after):
    """q(next | present, clean) [V]."""
    step = kept(1 - (1 - before) / (1 - after))
    joint = kept(after)[clean] * step[:, present]
    return joint / joint.sum()


LEVELS = [(1.0, 0.75), (0.75, 0.5), (0.25, 0.0)]  # of round 0, 1 and 3 of four


def test_masks_and_uniform_noise_are_corruptions():
    assert isinstance(Masked(3), Corruption)
    assert isinstance(UNIFORM, Corruption)


@pytest.mark.parametrize(("before", "after"), LEVELS)
def test_a_step_has_the_law_of_bayes_rule(before, after):
    for present, clean in itertools.product(range(V), repeat=2):
        expected = by_bayes(present, clean, before, after)
        logits = torch.full((1, V), -torch.inf).index_fill(1, torch.tensor(clean), 0.0)
        found = UNIFORM.transition(logits, torch.tensor([present]), before, after).softmax(-1)[0]
        assert torch.allclose(found.double(), expected, atol=1e-6)
    soft = LOGITS.log_softmax(-1)
    found = UNIFORM.transition(soft, torch.tensor([0, 1, 1]), before, after).softmax(-1)
    for row, present in enumerate([0, 1, 1]):
        mixed = sum(float(soft[row, x].exp()) * by_bayes(present, x, before, after) for x in range(V))
        assert torch.allclose(found[row].double(), mixed, atol=1e-6)


@pytest.mark.statistical
@pytest.mark.parametrize("round_index", [0, 1, 3])
def test_steps_draw_what_bayes_rule_says(round_index):  # fails by chance at FAILURE_RATE
    before, after = LEVELS[min(round_index, 2)]
    pairs = torch.tensor(list(itertools.product(range(V), repeat=2)))
    tokens, clean = pairs.repeat_interleave(4_000, 0).T.contiguous().unsqueeze(-1).unbind(0)
    process = ReverseProcess.start(product(), torch.full_like(tokens, BLANK), Unmasking(4), generator=seeded())
    drawn = process.step(tokens, clean, torch.zeros(tokens.shape), round_index).view(9, -1)
    for row, (present, target) in zip(drawn, pairs.tolist(), strict=True):
        expected = 4_000 * by_bayes(present, target, before, after)
        counts = torch.bincount(row, minlength=V)[expected > 0]
        assert counts.sum() == 4_000
        assert after == 0 or stats.chisquare(counts, expected[expected > 0]).pvalue > FAILURE_RATE / 27


@pytest.mark.statistical
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("num_rounds", [1, 2, 7])
def test_independent_positions_are_sampled_exactly_in_any_number_of_rounds(num_rounds, schedule):
    settings = {"num_rounds": num_rounds, "schedule": schedule, "generator": seeded()}
    found = sample(product(), blank(20_000), **settings)  # fails by chance at FAILURE_RATE
    expected = 20_000 * law_of_product(LOGITS)
    assert stats.chisquare(law_of(found) * 20_000, expected).pvalue > FAILURE_RATE / 6
    assert found.model_evaluations == num_rounds


@pytest.mark.statistical
def test_many_rounds_follow_a_law_that_is_no_product():
    target = chain(L).log_probs.exp()
    one, many = (sample(table(), blank(NUM_RUNS), num_rounds=n, generator=seeded()) for n in (1, 24))
    assert total_variation(law_of(many), target) < 0.06
    assert total_variation(law_of(one), target) > 0.2  # the product of its marginals


@pytest.mark.statistical
@pytest.mark.parametrize("num_rounds", [1, 4])
def test_guidance_of_independent_positions_follows_the_tilted_law_at_its_kl(num_rounds):
    """A linear reward tilts a product into a product, and every round's posterior likewise. The KL of the rounds adds
    up to that of the results, for both processes add the same noise."""
    found = guided_sample(
        product(), linear_reward, blank(NUM_RUNS), estimator="exact", num_rounds=num_rounds,
        num_steps=120 // num_rounds,
        lr=lambda progress: 0.4 * (1 - progress) + 0.01, generator=seeded(),
    )  # fmt: skip
    target, prior = law_of_product(LOGITS + LINEAR_WEIGHTS), law_of_product(LOGITS)
    assert total_variation(law_of(found), target) < 0.045
    assert total_variation(prior, target) > 0.2
    expected = float((target * (target / prior).log()).sum())
    assert float(found.kl.mean()) == pytest.approx(expected, abs=5 * float(found.kl.std()) / NUM_RUNS**0.5 + 0.005)


@pytest.mark.statistical
def test_particles_follow_the_tilted_law():
    found = smc(
        product(), pair_reward, blank(NUM_RUNS), num_particles=32, select="draw", num_rounds=4, generator=seeded()
    )
    tilted = law_of_product(LOGITS).log() + pair_reward(torch.eye(V)[SEQUENCES]).double()
    assert total_variation(law_of(found), tilted.softmax(-1)) < 0.065
    assert total_variation(law_of_product(LOGITS), tilted.softmax(-1)) > 0.25


@pytest.mark.statistical
def test_without_reward_weight_selection_follows_the_prior():
    settings = {"reward_weight": 0.0, "num_rounds": 3, "generator": seeded()}
    for found in (
        smc(product(), pair_reward, blank(NUM_RUNS), num_particles=4, select="draw", **settings),
        svdd(product(), pair_reward, blank(NUM_RUNS), num_candidates=3, **settings),
    ):
        assert total_variation(law_of(found), law_of_product(LOGITS)) < 0.045


METHODS = {
    "sample": lambda tokens, **settings: sample(product(), tokens, **settings),
    "guided_sample": lambda tokens, **settings: guided_sample(
        product(), pair_reward, tokens, estimator="redge", num_steps=3, **settings
    ),
    "best_of_n": lambda tokens, **settings: best_of_n(product(), pair_reward, tokens, num_candidates=3, **settings),
    "smc": lambda tokens, **settings: smc(product(), pair_reward, tokens, num_particles=3, **settings),
    "svdd": lambda tokens, **settings: svdd(product(), pair_reward, tokens, num_candidates=3, **settings),
}


@pytest.mark.parametrize("method", METHODS)
def test_given_tokens_are_kept_and_every_other_is_generated(method):
    tokens = torch.tensor([[BLANK, 1, BLANK], [2, BLANK, 0], [0, 1, 2]])
    found = METHODS[method](tokens, num_rounds=3, generator=seeded())
    given = tokens != BLANK
    assert torch.equal(found.tokens[given], tokens[given])
    assert bool((found.tokens < V).all())
    if method != "sample":
        assert torch.equal(found.reward, pair_reward(torch.eye(V)[found.tokens]))
    log_prob = found.log_prob if method == "sample" else found.prior_log_prob
    assert bool((log_prob[:2] < 0).all())
    assert log_prob[2] == 0
    assert torch.equal(found.tokens, METHODS[method](tokens, num_rounds=3, generator=seeded()).tokens)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"order": "confidence"},
            "order is a setting of masked diffusion, got 'confidence'; .* takes order='ancestral'",
        ),
        ({"order": torch.arange(3)}, "order is a setting of masked diffusion"),
        ({"remask_sigma": 0.5}, "remask_sigma is a setting of masked diffusion, got 0.5"),
        ({"block_size": 2}, "block_size is a setting of masked diffusion, got 2"),
        ({"end_token": 2}, "end_token is a setting of masked diffusion, got 2"),
    ],
)
def test_settings_of_masks_are_refused(method, settings, message):
    with pytest.raises(ValueError, match=message):
        METHODS[method](blank(2), **settings)


def test_a_token_does_not_say_where_to_generate():
    with pytest.raises(ValueError, match="mask_token only says where to generate: it must be at least 3, got 2"):
        sample(as_denoiser(product().function, mask_token=2, corruption=UNIFORM), blank(1))
    with pytest.raises(ValueError, match="vocab_size must be at least 1, got 0"):
        Uniform(0)


@pytest.mark.parametrize("corruption", [None, UNIFORM])
def test_the_noise_level_is_that_of_the_schedule(corruption):
    levels = []

    def model(tokens, noise_level):
        levels.append(noise_level.tolist())
        return torch.zeros(*tokens.shape, V)

    for schedule in ("linear", "cosine"):
        levels.clear()
        denoiser = as_denoiser(model, mask_token=BLANK, corruption=corruption)
        denoiser = ClassifierFree(denoiser, null_condition={}, weight=1.0)
        sample(denoiser, blank(2), num_rounds=2, schedule=schedule, generator=seeded())
        middle = math.cos(math.pi / 4) if schedule == "cosine" else 0.5
        assert levels == [pytest.approx([level, level]) for level in (1.0, 1.0, middle, middle)]


def test_a_killed_generation_goes_on_to_the_same_result(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")

    def run(file, **settings):
        return guided_sample(
            product(), pair_reward, blank(4), estimator="redge", num_rounds=4, num_steps=2, checkpoint=tmp_path / file,
            generator=seeded(), **settings,
        )  # fmt: skip

    whole = run("whole")

    def kill(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("cut", progress=kill)
    rest = run("cut")
    assert torch.equal(rest.tokens, whole.tokens)
    assert torch.equal(rest.kl, whole.kl)
    masked = as_denoiser(product().function, mask_token=BLANK)
    with pytest.raises(ValueError, match="belongs to a generation with other"):
        guided_sample(
            masked, pair_reward, blank(4), estimator="redge", num_rounds=4, num_steps=2, checkpoint=tmp_path / "cut",
            generator=seeded(),
        )  # fmt: skip


def test_a_stopped_generation_takes_its_proposal():
    seen = []

    def stop(info):
        seen.append(info.clean)
        return info.round_index == 1

    found = guided_sample(
        product(), pair_reward, blank(4), estimator="redge", num_rounds=4, num_steps=2, callback=stop,
        generator=seeded(),
    )  # fmt: skip
    assert torch.equal(found.tokens, seen[-1])
    assert len(seen) == 2
    assert bool((found.prior_log_prob < 0).all())
