"""Best of N, SVDD, Feynman-Kac SMC, APS and EntRGi: results, formulas, counted evaluations."""

import dataclasses
import inspect
import math
from pathlib import Path

import pytest
import torch

from catreparam import guidance
from catreparam.guidance import (
    BlackBoxError,
    BlackBoxReward,
    Evaluations,
    QuantizedExpectation,
    aps,
    best_of_n,
    entrgi,
    entropy_mixing,
    guided_sample,
    smc,
    svdd,
)
from catreparam.guidance.trace import selection_kl
from catreparam.masked_diffusion import ClassifierFree, TableDenoiser, Unmasking, as_denoiser
from guidance_bed import ONE_BY_ONE, chain, linear_reward, masked, pair_reward, uniform
from methods import seeded

METHODS = {
    "best_of_n": lambda *args, **kwargs: best_of_n(*args, num_candidates=8, **kwargs),
    "svdd": lambda *args, **kwargs: svdd(*args, num_candidates=8, **kwargs),
    "svdd without lookahead": lambda *args, **kwargs: svdd(*args, num_candidates=8, lookahead=False, **kwargs),
    "smc": lambda *args, **kwargs: smc(*args, num_particles=8, **kwargs),
    "aps": lambda *args, **kwargs: aps(*args, codebook=torch.eye(3), **kwargs),
    "entrgi": lambda *args, **kwargs: entrgi(*args, **kwargs),
}
WITHOUT_GRADIENT = [name for name in METHODS if name not in ("aps", "entrgi")]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_beats_the_prior_and_reports_its_own_tokens(name):
    start = masked(100, 4)
    start[:, 0] = 1
    result = METHODS[name](chain(), pair_reward, start, num_rounds=3, order="random", generator=seeded())
    expected = float((chain().log_probs.exp() * pair_reward(torch.eye(3)[chain().sequences])).sum())
    assert float(result.reward.mean()) > expected + 0.3
    assert torch.allclose(result.reward, pair_reward(torch.eye(3)[result.tokens]))
    assert bool((result.tokens[:, 0] == 1).all())
    assert result.reward.shape == result.prior_log_prob.shape == (100,)
    assert result.trace.rows


@pytest.mark.parametrize("name", METHODS)
def test_every_method_repeats_with_its_seed(name):
    one, two = (
        METHODS[name](chain(), pair_reward, masked(5, 4), num_rounds=3, order="random", generator=seeded(7))
        for _ in range(2)
    )
    assert torch.equal(one.tokens, two.tokens)
    assert one.trace.rows == two.trace.rows


@pytest.mark.parametrize("name", METHODS)
def test_every_method_returns_finished_tokens_as_they_are(name):
    """Any mask id: the vocabulary is the logits' last axis. One evaluation tells it."""
    done = torch.tensor([[0, 1, 2, 0]])
    for mask_token in (3, 5, 1000):
        denoiser = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 3), mask_token=mask_token)
        with pytest.warns(UserWarning, match=f"holds the mask token {mask_token}: nothing is generated"):
            result = METHODS[name](denoiser, pair_reward, done, num_rounds=3)
        assert torch.equal(result.tokens, done)
        assert result.reward.tolist() == pytest.approx(pair_reward(torch.eye(3)[done]).tolist())
        assert result.evaluations.reward_gradient == 0


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_methods_without_gradients_take_black_boxes(name):
    reward = BlackBoxReward(lambda tokens: (tokens == 1).sum(-1))
    result = METHODS[name](uniform(3), reward, masked(100, 4), num_rounds=2, generator=seeded())
    assert float(result.reward.mean()) > 1.9  # 1.33 without guidance


@pytest.mark.parametrize("name", ["aps", "entrgi"])
def test_methods_with_gradients_refuse_black_boxes(name):
    with pytest.raises(BlackBoxError, match="black box"):
        METHODS[name](uniform(3), BlackBoxReward(lambda tokens: (tokens == 1).sum(-1)), masked(2))


@pytest.mark.parametrize("name", METHODS)
def test_nan_rewards_are_one_error(name):
    with pytest.raises(ValueError, match=r"the reward returned nan .* for sequence\(s\) 0"):
        METHODS[name](uniform(3), lambda x: x.sum((1, 2)) * math.nan, masked(2), generator=seeded())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("best_of_n", Evaluations(8 * 3, 8)),
        ("svdd", Evaluations(1 + 8 * 2, 8 * 3)),
        ("svdd without lookahead", Evaluations(3, 8 * 3)),
        ("smc", Evaluations(8 * 3, 8 * 3)),
        ("aps", Evaluations(3, 3 * 3 + 1, 3 * 3)),
        ("entrgi", Evaluations(3, 3 * 3 + 1, 3 * 3)),
    ],
)
def test_evaluations_are_those_of_the_calls(name, expected):
    calls = {"model": 0, "reward": 0}

    def model(tokens: torch.Tensor) -> torch.Tensor:
        calls["model"] += tokens.shape[0]
        return torch.zeros(*tokens.shape, 3)

    def reward(x: torch.Tensor) -> torch.Tensor:
        calls["reward"] += x.shape[0]
        return linear_reward(x)

    start = masked(2)
    result = METHODS[name](as_denoiser(model, mask_token=3), reward, start, generator=seeded(), **ONE_BY_ONE)
    assert result.evaluations == expected
    assert calls == {"model": 2 * expected.model, "reward": 2 * expected.reward}
    free = as_denoiser(model, mask_token=3)
    doubled = METHODS[name](ClassifierFree(free, null_condition={}, weight=1.0), reward, start, **ONE_BY_ONE)
    assert doubled.evaluations.model == 2 * expected.model


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_conditions_follow_their_sequences(name):
    """Each sequence's condition allows one token only: a mix-up of particles would show."""

    def model(tokens: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(label, 3).log()[:, None].expand(*tokens.shape, 3).float()

    label = torch.tensor([2, 0, 1, 2])
    settings = {"condition": {"label": label}, **ONE_BY_ONE}
    if name in ("best_of_n", "smc"):
        settings["per_sequence"] = ("label",)
    result = METHODS[name](as_denoiser(model, mask_token=3), pair_reward, masked(4), **settings)
    assert torch.equal(result.tokens, label.unsqueeze(-1).expand(4, 3))


@pytest.mark.parametrize("lookahead", [True, False])
def test_lookahead_values_states_by_what_the_denoiser_makes_of_them(lookahead):
    """All positions equal: once one is revealed the denoiser knows the rest, but the draw that revealed it did not."""
    alike = torch.full((3, 3, 3), -torch.inf)
    alike[range(3), range(3), range(3)] = 0.0
    seen = []

    def reward(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.argmax(-1))
        return linear_reward(x)

    svdd(
        TableDenoiser(alike),
        reward,
        masked(20),
        num_candidates=2,
        lookahead=lookahead,
        generator=seeded(),
        **ONE_BY_ONE,
    )
    first = torch.cat(seen[:2])  # the values of the first round
    assert bool((first == first[:, :1]).all()) == lookahead


def test_chunks_of_candidates_keep_the_best():
    settings = {"num_candidates": 7, "generator": seeded(), **ONE_BY_ONE}
    result = best_of_n(chain(3), pair_reward, masked(50), chunk_size=3, **settings)
    assert len(result.trace.rows) == 3
    assert result.trace.column("best") == sorted(result.trace.column("best"))
    assert float(result.reward.mean()) == pytest.approx(result.trace.column("best")[-1], rel=1e-6)
    assert result.evaluations == Evaluations(21, 7)


def test_chunks_of_particles_keep_the_law_and_the_conditions():
    condition = {"label": torch.tensor([2, 0, 1])}
    settings = {"num_particles": 6, "condition": condition, "per_sequence": ("label",), "chunk_size": 4, **ONE_BY_ONE}
    seen = []

    def model(tokens: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        seen.append(tokens.shape[0])
        return torch.nn.functional.one_hot(label, 3).log()[:, None].expand(*tokens.shape, 3).float()

    result = smc(as_denoiser(model, mask_token=3), pair_reward, masked(3), **settings)
    assert torch.equal(result.tokens, torch.tensor([2, 0, 1]).unsqueeze(-1).expand(3, 3))
    assert seen == [4, 4, 4, 4, 2] * 3
    assert result.evaluations == Evaluations(6 * 3, 6 * 3)


def test_kl_bounds():
    result = best_of_n(chain(3), pair_reward, masked(2), num_candidates=4, **ONE_BY_ONE)
    assert result.kl.tolist() == pytest.approx([math.log(4) - 0.75] * 2)
    rewards = torch.tensor([[0.0, 1.0]])
    assert selection_kl(rewards, math.inf).tolist() == pytest.approx([math.log(2)])
    assert selection_kl(rewards, 0.0).tolist() == pytest.approx([0.0])
    w = 1 / (1 + math.exp(-2))
    assert selection_kl(rewards, 2.0).tolist() == pytest.approx([w * math.log(2 * w) + (1 - w) * math.log(2 - 2 * w)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: best_of_n(uniform(3), linear_reward, masked(1), num_candidates=0),
            "num_candidates must be at least 1, got 0",
        ),
        (
            lambda: svdd(uniform(3), linear_reward, masked(1), num_candidates=2, reward_weight=-1.0),
            "reward_weight must be",
        ),
        (lambda: smc(uniform(3), linear_reward, masked(1), num_particles=2, select="bets"), "unknown select 'bets'"),
        (
            lambda: smc(uniform(3), linear_reward, masked(1), num_particles=2, ess_threshold=2.0),
            "ess_threshold must be",
        ),
        (
            lambda: aps(uniform(3), linear_reward, masked(1), codebook=torch.zeros(5, 2)),
            "a codebook of 5 codes does not fit",
        ),
        (lambda: QuantizedExpectation(torch.zeros(5)), r"codebook must have shape \[vocab_size, dim\], got \(5,\)"),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Embedding guidance


def test_entropy_mixing_is_soft_where_sure_and_hard_where_uncertain():
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, -0.5]], requires_grad=True)
    x = entropy_mixing(logits, generator=seeded())
    q = logits.detach().softmax(-1)
    weight = torch.distributions.Categorical(probs=q).entropy() / math.log(3)
    hard = (x.detach() - q * (1 - weight[:, None])) / weight[:, None]
    assert torch.allclose(hard.amax(-1), torch.ones(3), atol=1e-3)
    assert torch.allclose(x[1], hard[1], atol=1e-5)
    assert torch.allclose(x[0], q[0], atol=0.02)
    upstream = torch.randn(3, 3, generator=seeded(1))
    found = torch.autograd.grad(x, logits, upstream)[0]
    assert torch.allclose(found, q * (upstream - (q * upstream).sum(-1, keepdim=True)), atol=1e-6)


def test_quantized_expectation_is_the_nearest_allowed_code():
    codebook, logits = torch.randn(6, 3, generator=seeded(1)), torch.randn(2, 4, 6, generator=seeded())
    logits[..., 2] = -torch.inf
    codebook[2] = (logits.softmax(-1) @ codebook)[0, 0]  # nearest of all in the first row, but forbidden
    logits.requires_grad_()
    x = QuantizedExpectation(codebook)(logits)
    q = logits.detach().softmax(-1)
    distance = torch.cdist(q @ codebook, codebook)
    distance[..., 2] = torch.inf
    assert torch.equal(x.argmax(-1), distance.argmin(-1))
    assert torch.equal(x.sum(-1), torch.ones(2, 4))
    upstream = torch.randn(2, 4, 6, generator=seeded(2))
    found = torch.autograd.grad(x, logits, upstream)[0]
    assert torch.allclose(found, q * (upstream - (q * upstream).sum(-1, keepdim=True)), atol=1e-6)


def test_embedding_guidance_also_serves_as_an_estimator_with_a_kl():
    for estimator in (entropy_mixing, QuantizedExpectation(torch.eye(3))):
        result = guided_sample(
            chain(), pair_reward, masked(20, 4), estimator=estimator, num_rounds=2, generator=seeded()
        )
        assert float(result.kl.mean()) > 0.1


OTHERS = ("temperature", "callback", "checkpoint", "commit", "per_sequence", "chunk_size")


def test_the_page_says_which_method_takes_what():
    page = (Path(__file__).parent.parent / "docs" / "guidance.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    start = next(index for index, row in enumerate(rows) if row[0] == "beside these")
    names = [cell.split("`, `") for cell in rows[start][1:]]
    settings = [field.name for field in dataclasses.fields(Unmasking)]
    table = {row[0]: row[1:] for row in rows[start + 2 : start + 7]}
    for column, methods in enumerate(names):
        for method in methods:
            taken = set(inspect.signature(getattr(guidance, method)).parameters)
            some = table["settings of `Unmasking"][column]
            assert taken & set(settings) == set(settings if some == "all" else some.split("`, `"))
            for setting in OTHERS:
                row = next(key for key in table if setting in key.split("`, `"))
                assert (setting in taken) == table[row][column].startswith("yes"), (method, setting)
            assert {"condition", "progress", "generator"} <= taken
