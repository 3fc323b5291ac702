"""guided_sample: rounds, proposals, callbacks, and the KL of a whole generation."""

from itertools import pairwise

import pytest
import torch

from catreparam.guidance import BlackBoxReward, EarlyStop, RewardError, guided_sample
from catreparam.masked_diffusion import ClassifierFree, as_denoiser, sample
from guidance_bed import LINEAR_WEIGHTS, chain, linear_reward, pair_reward, product, uniform
from methods import seeded

START = torch.full((3, 4), 3)
QUICK = {"estimator": "reinmax", "num_rounds": 4, "num_steps": 5, "order": "random"}


def guide(**settings):
    call = {"denoiser": chain(), "reward": pair_reward, "tokens": START, "generator": seeded(), **QUICK, **settings}
    return guided_sample(call.pop("denoiser"), call.pop("reward"), call.pop("tokens"), **call)


def test_guidance_raises_the_reward_above_the_prior():
    start = torch.full((200, 4), 3)
    unguided = pair_reward(
        torch.eye(3)[sample(chain(), start, num_rounds=4, order="random", generator=seeded()).tokens]
    )
    guided = guide(tokens=start, num_steps=10, kl_weight=0.3)
    assert float(guided.reward.mean()) > float(unguided.mean()) + 0.5
    assert torch.equal(guided.reward, pair_reward(torch.eye(3)[guided.tokens]))


def test_given_tokens_are_kept():
    start = torch.tensor([[0, 3, 3, 1], [3, 3, 2, 3]])
    result = guide(tokens=start)
    assert torch.equal(result.tokens[start < 3], start[start < 3])
    assert bool((result.tokens < 3).all())


@pytest.mark.parametrize("order", ["ancestral", "random", "confidence", "halton"])
@pytest.mark.parametrize("remask_sigma", [0.0, 1.0])
def test_orders_and_remasking_work(order, remask_sigma):
    result = guide(order=order, remask_sigma=remask_sigma)
    assert bool((result.tokens < 3).all())
    assert result.evaluations.model <= 4


def test_the_surest_tokens_go_first_by_default():
    quick = {key: value for key, value in QUICK.items() if key != "order"}

    def run(**order):
        return guided_sample(chain(), pair_reward, START, generator=seeded(), **quick, **order).tokens

    assert torch.equal(run(), run(order="confidence"))
    assert not torch.equal(run(), run(order="ancestral"))


def test_the_kl_of_a_product_prior_with_exact_gradients_is_the_closed_form():
    logits = torch.randn(4, 3, generator=seeded(1))
    result = guide(
        denoiser=product(logits),
        reward=linear_reward,
        estimator="exact",
        num_steps=300,
        lr=lambda progress: 0.2 * (1 - progress) + 1e-3,
        num_rounds=2,
        tokens=START[:1],
    )
    p, q = logits.log_softmax(-1), (logits + LINEAR_WEIGHTS).log_softmax(-1)
    assert float(result.kl[0]) == pytest.approx(float((q.exp() * (q - p)).sum()), abs=1e-3)
    assert float(result.prior_log_prob[0]) == pytest.approx(float(p.gather(-1, result.tokens.T).sum()), abs=1e-4)


def test_a_huge_kl_weight_samples_the_prior():
    result = guide(kl_weight=1e6, lr=1e-4, estimator="exact")
    assert float(result.kl.max()) < 1e-5


def test_evaluations_count_rounds_steps_and_samples():
    denoiser = as_denoiser(lambda tokens, **_: torch.zeros(*tokens.shape, 3), mask_token=3)
    result = guide(denoiser=ClassifierFree(denoiser, null_condition={}, weight=1.0), num_samples=2)
    assert result.evaluations.model == 2 * 4
    assert result.evaluations.reward == 4 * 5 * 2 + 1
    assert result.evaluations.reward_gradient == 4 * 5 * 2


def test_the_trace_has_a_row_for_every_step_of_every_round():
    trace = guide().trace
    assert trace.column("round") == [r for r in range(4) for _ in range(5)]
    assert trace.column("step") == list(range(5)) * 4
    assert trace.column("masked") == [m for m in (4.0, 3.0, 2.0, 1.0) for _ in range(5)]


def test_the_warm_start_begins_where_the_last_round_ended():
    kls = {forgetting: guide(forgetting=forgetting).trace for forgetting in (0.0, 1.0)}
    firsts = {key: trace.column("kl")[5] for key, trace in kls.items()}
    assert firsts[0.0] > 0.05
    assert firsts[1.0] == pytest.approx(0.0, abs=1e-6)


def test_positions_masked_again_keep_their_tilt():
    """A uniform prior and a linear reward: after convergence every masked position starts at the same divergence."""
    settings = {"denoiser": uniform(3), "reward": linear_reward, "estimator": "exact", "num_steps": 80}
    settings["lr"] = lambda progress: 0.2 * (1 - progress) + 2e-3
    result = guide(**settings, tokens=torch.full((1, 4), 3), num_rounds=6, remask_sigma=1.0, generator=seeded(3))
    starts = [row for row in result.trace.rows if row["step"] == 0]
    optimum = torch.log_softmax(LINEAR_WEIGHTS, -1)
    one = float((optimum.exp() * (optimum + torch.tensor(3.0).log())).sum())
    assert [row["kl"] for row in starts[1:]] == pytest.approx([one * row["masked"] for row in starts[1:]], rel=0.05)
    assert len({row["masked"] for row in starts}) < len(starts)  # some were masked again


def test_commit_argmax_and_best():
    assert bool((guide(denoiser=uniform(3), reward=linear_reward, commit="argmax", kl_weight=0.0).tokens == 2).all())
    seen = []

    def callback(info) -> None:
        seen.append((info.clean, info.optimized.best_tokens))

    guide(commit="best", callback=callback)
    assert all(torch.equal(clean, best) for clean, best in seen)
    with pytest.raises(ValueError, match=r"unknown commit 'beste'.*'best'"):
        guide(commit="beste")


def test_black_boxes_are_guided_by_score_functions():
    reward = BlackBoxReward(lambda tokens: (tokens == 1).sum(-1))
    result = guide(
        denoiser=uniform(3),
        reward=reward,
        tokens=torch.full((50, 4), 3),
        estimator="rloo",
        num_samples=4,
        kl_weight=0.1,
    )
    assert float(result.reward.mean()) > 1.8  # 1.33 without guidance


def test_callbacks_see_the_kl_so_far():
    seen = []
    made = guide(callback=lambda info: seen.append(info.kl))
    assert torch.equal(seen[-1], made.kl)
    assert all(bool((later >= earlier - 1e-6).all()) for earlier, later in pairwise(seen))
    stopped = guide(callback=lambda info: info.round_index == 1)
    assert not torch.equal(stopped.kl, seen[1])  # ending early reveals more


def test_callbacks_see_rounds_and_may_end_the_generation():
    seen, done = [], []
    guide(callback=lambda info: seen.append((info.round_index, int((info.tokens == 3).sum(-1)[0]))))
    assert seen == [(0, 3), (1, 2), (2, 1), (3, 0)]
    ended = guide(callback=lambda info: info.round_index == 1, progress=lambda now, total: done.append((now, total)))
    assert bool((ended.tokens < 3).all())
    assert ended.evaluations.model == 2
    assert done == [(1, 4), (2, 4)]


def test_early_stop_applies_to_every_round():
    trace = guide(early_stop=EarlyStop(target=-100.0)).trace
    assert trace.column("step") == [0.0] * 4


def test_the_same_seed_repeats_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    one, two = guide(estimator="redge", remask_sigma=0.5), guide(estimator="redge", remask_sigma=0.5)
    assert torch.equal(one.tokens, two.tokens)
    assert one.trace.rows == two.trace.rows
    assert torch.equal(before, torch.get_rng_state())


def test_a_nan_reward_names_round_and_step():
    calls = iter(range(100))
    broken = lambda x: pair_reward(x) * (float("nan") if next(calls) == 7 else 1.0)  # noqa: E731
    with pytest.raises(RewardError, match=r"round 1: the reward returned nan at step 2 for sequence\(s\) 0, 1, 2;"):
        guide(reward=broken)


def test_nothing_to_generate_is_fine():
    done = torch.tensor([[0, 1, 2, 0]])
    with pytest.warns(UserWarning, match="nothing is generated"):
        result = guide(tokens=done)
    assert torch.equal(result.tokens, done)
    assert result.evaluations.model == 1  # which tells the size of the vocabulary
