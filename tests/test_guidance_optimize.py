"""optimize_logits: closed-form optima, exact KL, frozen positions, stopping."""

import math

import pytest
import torch

from catreparam import kl, make_estimator
from catreparam.guidance import Annealed, EarlyStop, optimize_logits
from catreparam.guidance.update import divergence
from guidance_bed import LINEAR_WEIGHTS, linear_reward, pair_reward
from methods import seeded

SMOOTH = {"num_steps": 300, "lr": lambda progress: 0.2 * (1 - progress) + 1e-3}
GRADIENT_ESTIMATORS = ["straight_through", "reinmax", "redge", "exact_redge", "rloo", "arsm", "rebar"]  # unbiased here


def prior(batch: int = 2, length: int = 3, vocab_size: int = 3) -> torch.Tensor:
    return torch.randn(batch, length, vocab_size, generator=seeded(5))


def probs_of(result) -> torch.Tensor:
    return result.logits.softmax(-1)


# Optima in closed form


def test_with_a_linear_reward_the_optimum_is_the_tilted_prior():
    logits = prior()
    found = optimize_logits(logits, linear_reward, estimator="exact", kl_weight=0.5, **SMOOTH)
    assert torch.allclose(probs_of(found), torch.softmax(logits + LINEAR_WEIGHTS / 0.5, -1), atol=1e-3)


def test_with_exact_gradients_the_mean_field_optimum_is_reached():
    """At the optimum log q_l(v) = log p_l(v) + E[reward | x_l = v] / kl_weight + constant, for every position l."""
    logits, weight = prior(1), 0.7
    q = probs_of(optimize_logits(logits, pair_reward, estimator="exact", kl_weight=weight, **SMOOTH))
    for position in range(3):
        conditional = torch.stack(
            [expected_reward(q.index_copy(1, torch.tensor([position]), row[None, None])) for row in torch.eye(3)]
        )
        expected = torch.softmax(logits[0, position] + conditional / weight, -1)
        assert torch.allclose(q[0, position], expected, atol=2e-3)


def expected_reward(q: torch.Tensor) -> torch.Tensor:
    """E[pair_reward] under independent positions: it is bilinear in neighbours."""
    return pair_reward(q)[0]


@pytest.mark.parametrize("name", GRADIENT_ESTIMATORS)
def test_every_estimator_gets_close_to_the_tilted_prior(name):
    logits = prior()
    found = optimize_logits(
        logits,
        linear_reward,
        estimator=name,
        kl_weight=1.0,
        num_steps=250,
        lr=lambda progress: 0.1 * (1 - progress) + 1e-3,
        num_samples=4,
        generator=seeded(),
    )
    target = torch.softmax(logits + LINEAR_WEIGHTS, -1)
    start = (torch.softmax(logits, -1) - target).abs().sum(-1).mean()
    assert (probs_of(found) - target).abs().sum(-1).mean() < 0.2 * start


def test_a_huge_kl_weight_returns_the_prior():
    logits = prior()
    found = optimize_logits(logits, linear_reward, estimator="exact", kl_weight=1e6, num_steps=50, lr=1e-4)
    assert torch.allclose(probs_of(found), logits.softmax(-1), atol=1e-4)


def test_without_kl_the_best_tokens_take_all():
    found = optimize_logits(prior(), linear_reward, estimator="exact", kl_weight=0.0, num_steps=400)
    assert bool((probs_of(found)[..., LINEAR_WEIGHTS.argmax()] > 0.99).all())


def test_no_steps_return_the_prior_untouched():
    found = optimize_logits(prior(), linear_reward, estimator="redge", num_steps=0)
    assert torch.allclose(probs_of(found), prior().softmax(-1))
    assert found.evaluations.reward == 0


# The divergence


def test_divergence_agrees_with_the_naive_formula_and_its_gradient():
    logits = torch.randn(2, 3, 5, generator=seeded(), dtype=torch.double, requires_grad=True)
    log_prior = torch.randn(2, 3, 5, generator=seeded(1), dtype=torch.double).log_softmax(-1)
    found = divergence(logits.detach(), log_prior)
    expected = kl(logits, log_prior)
    assert torch.allclose(found.kl, expected)
    assert torch.allclose(found.entropy, torch.distributions.Categorical(logits=logits).entropy())
    assert torch.allclose(found.gradient, torch.autograd.grad(expected.sum(), logits)[0])


def test_impossible_tokens_count_nothing():
    log_prior = torch.tensor([[[0.5, 0.5, 0.0]]]).log()
    logits = log_prior + torch.tensor([1.0, 0.0, 7.0])
    found = divergence(logits, log_prior)
    seen = divergence(logits[..., :2], log_prior[..., :2])
    assert torch.allclose(found.kl, seen.kl)
    assert found.gradient[0, 0, 2] == 0
    assert torch.allclose(found.gradient[..., :2], seen.gradient)


@pytest.mark.parametrize("name", ["exact", "redge", "exact_redge", "reinmax", "rloo", "gumbel_softmax"])
def test_tokens_that_the_prior_forbids_stay_impossible(name):
    logits = prior()
    logits[..., 0] = -torch.inf
    favours_it = lambda x: 9 * x[..., 0].sum(-1) + x[..., 1].sum(-1)  # noqa: E731
    found = optimize_logits(logits, favours_it, estimator=name, num_samples=2, generator=seeded())
    assert bool((found.logits[..., 0] == -torch.inf).all())
    assert bool(torch.isfinite(found.logits[..., 1:]).all())
    assert bool(torch.isfinite(found.tilt).all())


# Frozen positions


def test_frozen_positions_show_the_reward_their_tokens_and_do_not_move():
    tokens = torch.tensor([[2, 3, 3], [3, 1, 0]])  # 3 is the mask token
    seen = []

    def reward(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return linear_reward(x)

    found = optimize_logits(prior(), reward, estimator="reinmax", tokens=tokens, generator=seeded())
    assert all(x[0, 0].tolist() == [0, 0, 1] and x[1, 1].tolist() == [0, 1, 0] and x[1, 2, 0] == 1 for x in seen)
    assert found.logits[0, 0].tolist() == [-math.inf, -math.inf, 0.0]
    assert not bool(found.tilt[0, 0].any())
    assert not bool(found.tilt[1, 1:].any())
    assert bool(found.tilt[1, 0].any())
    assert bool(found.tilt[0, 1:].any(-1).all())


def test_working_on_free_rows_only_changes_nothing():
    tokens = torch.tensor([[2, 3, 3], [3, 1, 0]])
    frozen_prior = prior().clone()
    for b, position in ((0, 0), (1, 1), (1, 2)):
        frozen_prior[b, position] = -torch.inf
        frozen_prior[b, position, tokens[b, position]] = 0.0
    settings = {"estimator": "exact", "num_steps": 30, "kl_weight": 0.5}
    rows_only = optimize_logits(prior(), pair_reward, tokens=tokens, **settings)
    everything = optimize_logits(frozen_prior, pair_reward, **settings)
    assert torch.allclose(probs_of(rows_only), probs_of(everything), atol=1e-5)
    assert rows_only.trace.column("kl") == pytest.approx(everything.trace.column("kl"), abs=1e-5)


def test_the_mask_token_may_sit_inside_the_vocabulary():
    logits = prior()
    logits[..., 1] = -torch.inf
    tokens = torch.tensor([[0, 1, 1], [1, 2, 1]])
    found = optimize_logits(logits, linear_reward, estimator="reinmax", tokens=tokens, frozen=tokens != 1)
    assert bool(found.tilt[0, 1:].any(-1).all())
    assert not bool(found.tilt[0, 0].any())


def test_all_frozen_means_nothing_to_do():
    tokens = torch.tensor([[0, 1, 2], [2, 1, 0]])
    found = optimize_logits(prior(), linear_reward, estimator="redge", tokens=tokens)
    assert torch.equal(found.logits.argmax(-1), tokens)
    assert found.trace.rows == []


# Warm start, schedules, stopping


def test_a_warm_start_continues_and_forgetting_scales_it():
    first = optimize_logits(prior(), linear_reward, estimator="exact", num_steps=40)
    settings = {"estimator": "exact", "num_steps": 0, "warm_start": first.tilt}
    assert torch.allclose(probs_of(optimize_logits(prior(), linear_reward, **settings)), probs_of(first), atol=1e-6)
    half = optimize_logits(prior(), linear_reward, forgetting=0.5, **settings)
    assert torch.allclose(half.tilt, first.tilt / 2)
    none = optimize_logits(prior(), linear_reward, forgetting=1.0, **settings)
    assert torch.allclose(probs_of(none), prior().softmax(-1))


def test_gradient_clipping_bounds_each_sequence():
    seen = []
    steep = lambda x: torch.tensor([1.0, 1e4]) * linear_reward(x)  # noqa: E731
    settings = {"estimator": "exact", "num_steps": 1, "lr": 0.5, "kl_weight": 0.0}
    free = optimize_logits(prior(), steep, callback=lambda info: seen.append(info.gradient_norm), **settings)
    clipped = optimize_logits(prior(), steep, max_grad_norm=1e-10, **settings)
    assert seen[0][1] > 1e3 * seen[0][0] > 0
    assert float(free.tilt.abs().max()) == pytest.approx(0.5, rel=1e-3)
    assert float(clipped.tilt.abs().max()) < 0.01  # Adam's epsilon of 1e-8 shows the clipping at this size
    one, two = clipped.tilt.abs().amax((1, 2)).tolist()
    assert 0.2 < one / two < 5  # each sequence by its own norm, whatever the other's


def test_early_stop_at_a_target_needs_every_sequence():
    rewards = iter([[0.0, 9.0], [0.0, 0.0], [9.0, 0.0], [0.0, 0.0]])
    reward = lambda x: torch.tensor(next(rewards)) + 0 * x.sum((1, 2))  # noqa: E731
    found = optimize_logits(prior(), reward, estimator="reinmax", early_stop=EarlyStop(target=5.0))
    assert found.trace.column("step") == [0, 1, 2]


def test_early_stop_waits_for_improvements():
    flat = lambda x: 0 * x.sum((1, 2))  # noqa: E731
    found = optimize_logits(prior(), flat, estimator="reinmax", kl_weight=0.0, early_stop=EarlyStop(patience=3))
    assert len(found.trace.rows) == 4


def test_a_callback_sees_the_state_and_may_stop():
    seen = []

    def callback(info) -> bool:
        seen.append((info.step, info.reward.shape, info.logits().shape))
        return info.step == 2

    optimize_logits(prior(), linear_reward, estimator="reinmax", callback=callback)
    assert seen == [(step, (2,), (2, 3, 3)) for step in range(3)]


def test_learning_rates_and_estimators_may_follow_the_progress():
    rates, progresses = [], []

    def rate(progress: float) -> float:
        rates.append(progress)
        return 0.1

    def make(progress: float):
        progresses.append(progress)
        return make_estimator("redge", t1=0.9 - 0.4 * progress)

    optimize_logits(prior(), linear_reward, estimator=Annealed(make), lr=rate, num_steps=4, generator=seeded())
    assert progresses == [0.0, 0.25, 0.5, 0.75]
    assert rates == [0.0, *progresses]  # once more when Adam is made


def test_the_best_sample_seen_is_kept():
    seen = []

    def reward(x: torch.Tensor) -> torch.Tensor:
        seen.append((linear_reward(x).detach(), x.detach().argmax(-1)))
        return linear_reward(x)

    found = optimize_logits(
        prior(), reward, estimator="redge", track_best=True, num_samples=2, num_steps=9, generator=seeded()
    )
    rewards = torch.stack([values for values, _ in seen])
    assert torch.equal(found.best_reward, rewards.amax(0))
    for b, draw in enumerate(rewards.argmax(0).tolist()):
        assert torch.equal(found.best_tokens[b], seen[draw][1][b])


def test_the_trace_and_the_evaluations_are_those_of_the_calls():
    found = optimize_logits(prior(), linear_reward, estimator="reinmax", num_steps=7, num_samples=3)
    assert (found.evaluations.model, found.evaluations.reward, found.evaluations.reward_gradient) == (0, 21, 21)
    assert set(found.trace.rows[0]) == {"step", "reward", "kl", "entropy", "gradient_norm"}
    assert found.trace.column("kl")[0] == pytest.approx(0.0, abs=1e-6)
    entropies = torch.distributions.Categorical(logits=prior()).entropy().sum(-1).mean()
    assert found.trace.column("entropy")[0] == pytest.approx(float(entropies), abs=1e-5)
    score = optimize_logits(prior(), linear_reward, estimator="rloo", num_steps=7, num_samples=3)
    assert (score.evaluations.reward, score.evaluations.reward_gradient) == (21, 0)


def test_half_precision_priors_are_optimised_in_float32():
    found = optimize_logits(prior().bfloat16(), linear_reward, estimator="reinmax")
    assert found.logits.dtype == torch.float32
    double = optimize_logits(prior().double(), lambda x: linear_reward(x.float()).double(), estimator="reinmax")
    assert double.logits.dtype == torch.float64


def test_the_same_seed_repeats_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    one, two = (optimize_logits(prior(), linear_reward, estimator="redge", generator=seeded(1)) for _ in range(2))
    assert torch.equal(one.logits, two.logits)
    assert torch.equal(before, torch.get_rng_state())


def test_parameters_of_the_reward_get_no_gradient():
    scorer = torch.nn.Linear(3, 1)
    optimize_logits(prior(), lambda x: scorer(x).sum((1, 2)), estimator="reinmax", num_steps=2)
    assert scorer.weight.grad is None


def test_empty_batches_pass():
    found = optimize_logits(torch.zeros(0, 3, 3), linear_reward, estimator="redge")
    assert found.logits.shape == (0, 3, 3)
