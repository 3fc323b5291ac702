"""Rewards: black boxes, errors that name the step, embeddings by lookup."""

import math

import pytest
import torch

from catreparam import make_estimator
from catreparam.estimators import fewest_samples
from catreparam.guidance import (
    BlackBoxError,
    BlackBoxReward,
    EarlyStop,
    codebook_embed,
    embedding,
    on_images,
    optimize_logits,
)
from guidance_bed import linear_reward
from methods import seeded

PRIOR = torch.zeros(2, 3, 3)
BLACK_BOX = BlackBoxReward(lambda tokens: (tokens == 2).sum(-1))


# Black boxes


@pytest.mark.parametrize("name", ["rloo", "reinforce", "arsm", "exact"])
def test_score_functions_optimise_black_boxes(name):
    estimator = make_estimator(name, chunk_size=1) if name == "exact" else name
    found = optimize_logits(
        PRIOR, BLACK_BOX, estimator=estimator, num_samples=4, num_steps=80, lr=0.1, kl_weight=0.1, generator=seeded()
    )
    assert bool((found.logits.softmax(-1)[..., 2] > 0.8).all())
    assert found.evaluations.reward_gradient == 0


@pytest.mark.parametrize("name", ["redge", "reinmax", "gumbel_softmax", "rebar", "relax", "unbiased_redge"])
def test_estimators_that_differentiate_refuse_black_boxes(name):
    with pytest.raises(BlackBoxError, match=r"black box.*score-function estimator \(rloo, reinforce, arsm\)"):
        optimize_logits(PRIOR, BLACK_BOX, estimator=name, num_samples=2)


def test_black_boxes_may_return_lists():
    assert BlackBoxReward(lambda tokens: [1, 2])(torch.eye(3)[torch.zeros(2, 3, dtype=torch.long)]).tolist() == [
        1.0,
        2.0,
    ]


# Errors


def bad_at(step: int, value: float):
    """linear_reward, until it returns `value` for the second sequence."""
    calls = iter(range(1000))

    def reward(x: torch.Tensor) -> torch.Tensor:
        return linear_reward(x) + torch.tensor([0.0, value if next(calls) == step else 0.0])

    return reward


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["reinmax", "rloo"])
def test_a_reward_that_is_not_finite_is_one_error_with_the_step(name, value):
    samples = fewest_samples(name)
    with pytest.raises(ValueError, match=r"the reward returned -?(nan|inf) at step 3 for sequence\(s\) 1;"):
        optimize_logits(PRIOR, bad_at(3 * samples, value), estimator=name, num_samples=samples)


def test_a_gradient_that_is_not_finite_is_an_error_with_the_step():
    steep = lambda x: (x.sum((1, 2)) - 3).clamp_min(0).sqrt()  # noqa: E731 (0 / 0 in its derivative)
    with pytest.raises(ValueError, match="gradient of the reward is not finite at step 0"):
        optimize_logits(PRIOR, steep, estimator="reinmax")


@pytest.mark.parametrize(
    ("reward", "error", "message"),
    [
        (lambda x: x.sum(), ValueError, r"one number per sequence, \[2\], got shape \(\)"),
        (lambda x: x.sum(-1), ValueError, r"got shape \(2, 3\)"),
        (lambda x: 1.0, TypeError, "must return a floating torch.Tensor .*, got float"),
        (lambda x: x.sum((1, 2)).long(), TypeError, "got torch.int64"),
        (lambda x: x.detach().sum((1, 2)), ValueError, "does not depend on x differentiably"),
    ],
)
def test_ill_made_rewards_are_refused(reward, error, message):
    with pytest.raises(error, match=message):
        optimize_logits(PRIOR, reward, estimator="reinmax")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"estimator": "redgy"}, ValueError, "unknown estimator 'redgy'. Did you mean 'redge'"),
        ({"estimator": 3}, TypeError, "estimator must be a name or a callable, got 3"),
        ({"num_steps": -1}, ValueError, "num_steps must be at least 0, got -1"),
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1, got 0"),
        ({"lr": 0.0}, ValueError, "lr must be greater than 0, got 0.0"),
        ({"kl_weight": -1.0}, ValueError, "kl_weight must be at least 0, got -1.0"),
        ({"forgetting": 1.5}, ValueError, "forgetting must be .* got 1.5"),
        ({"max_grad_norm": 0.0}, ValueError, "max_grad_norm must be greater than 0"),
        (
            {"warm_start": torch.zeros(2, 3, 4)},
            ValueError,
            r"warm_start must have the shape .* \(2, 3, 3\), got \(2, 3, 4\)",
        ),
        ({"frozen": torch.ones(2, 3, dtype=torch.bool)}, ValueError, "frozen needs tokens"),
        ({"tokens": torch.zeros(2, 2, dtype=torch.long)}, ValueError, r"tokens must be .* shape \(2, 3\), got"),
        (
            {"tokens": torch.full((2, 3), 7), "frozen": torch.ones(2, 3, dtype=torch.bool)},
            ValueError,
            r"frozen positions must hold tokens in \[0, 3\), got 7",
        ),
        ({"prior_logits": torch.zeros(2, 3)}, ValueError, r"prior_logits must have shape \[B, L, vocab_size\]"),
        ({"prior_logits": torch.full((2, 3, 3), math.nan)}, ValueError, "NaN"),
        ({"prior_logits": torch.full((2, 3, 3), -math.inf)}, ValueError, "allow no class"),
        ({"generator": 0}, TypeError, "generator must be a torch.Generator or None, got int"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    call = {"prior_logits": PRIOR, "reward": linear_reward, "estimator": "reinmax", **settings}
    with pytest.raises(error, match=message):
        optimize_logits(call.pop("prior_logits"), call.pop("reward"), **call)


def test_early_stop_needs_a_rule():
    with pytest.raises(ValueError, match="needs a target or a patience"):
        EarlyStop()


# Embeddings


def one_hot(*shape: int) -> torch.Tensor:
    index = torch.randint(0, 7, shape, generator=seeded())
    return torch.nn.functional.one_hot(index, 7).double().requires_grad_()


def soft(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, 7, generator=seeded(), dtype=torch.double).softmax(-1).requires_grad_()


@pytest.mark.parametrize("few", [0, 32])
@pytest.mark.parametrize("make", [one_hot, soft])
@pytest.mark.parametrize("shape", [(4,), (2, 5), (0, 3)])
def test_codebook_embed_is_the_product_with_its_gradients(make, shape, few, monkeypatch):
    monkeypatch.setattr(embedding, "FEW", few)
    x = make(*shape)
    codebook = torch.randn(7, 3, generator=seeded(1), dtype=torch.double, requires_grad=True)
    upstream = torch.randn(*shape, 3, generator=seeded(2), dtype=torch.double)
    found, expected = codebook_embed(x, codebook), x @ codebook
    assert torch.equal(found, expected) or torch.allclose(found, expected, atol=1e-12)
    for left, right in zip(
        torch.autograd.grad(found, (x, codebook), upstream),
        torch.autograd.grad(expected, (x, codebook), upstream),
        strict=True,
    ):
        assert torch.allclose(left, right, atol=1e-12)


def test_codebook_embed_looks_hard_samples_up(monkeypatch):
    monkeypatch.setattr(embedding, "FEW", 0)
    codebook = torch.randn(7, 3, dtype=torch.double)
    assert "Lookup" in type(codebook_embed(one_hot(4), codebook).grad_fn).__name__
    assert "Lookup" not in type(codebook_embed(soft(4), codebook).grad_fn).__name__


def test_codebook_embed_differentiates_twice():
    codebook = torch.randn(7, 3, generator=seeded(1), dtype=torch.double)
    x = one_hot(4)
    embedded = codebook_embed(x, codebook)
    weights = torch.ones_like(embedded, requires_grad=True)
    (gradient,) = torch.autograd.grad(embedded, x, weights, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), weights)
    assert torch.allclose(second, 2 * weights @ codebook.T @ codebook)


def test_codebook_embed_works_under_vmap_and_in_the_dtype_of_x():
    codebook = torch.randn(7, 3, dtype=torch.double)
    x = one_hot(4, 5).detach()
    assert torch.allclose(torch.vmap(lambda row: codebook_embed(row, codebook))(x), x @ codebook)
    assert codebook_embed(x.float(), codebook).dtype == torch.float32


def test_codebook_embed_names_both_shapes():
    with pytest.raises(ValueError, match=r"x \(2, 4\) does not fit a codebook \(7, 3\)"):
        codebook_embed(torch.zeros(2, 4), torch.zeros(7, 3))


def test_optimising_through_codebook_embed_equals_the_product():
    codebook = torch.randn(3, 4, generator=seeded(3))
    target = torch.randn(4, generator=seeded(4))
    rewards = []
    for embed in (lambda x: codebook_embed(x, codebook), lambda x: x @ codebook):
        rewards.append(lambda x, embed=embed: -(embed(x) - target).square().sum((1, 2)))
    left, right = (optimize_logits(PRIOR, reward, estimator="redge", generator=seeded()) for reward in rewards)
    assert torch.allclose(left.logits, right.logits, atol=1e-4)


def test_rewards_on_images_keep_rows_and_columns():
    codebook = torch.arange(7.0).reshape(7, 1)
    tokens = torch.tensor([[0, 1, 2, 3, 4, 5]])
    x = torch.nn.functional.one_hot(tokens, 7).float().requires_grad_()
    seen = []
    reward = on_images(lambda image: image[:, 0, 1].sum(-1), lambda z: seen.append(z) or z, codebook, grid=(2, 3))
    assert reward(x).tolist() == [12.0]
    assert seen[0].shape == (1, 1, 2, 3)
    gradient = torch.autograd.grad(reward(x).sum(), x)[0]
    assert torch.equal(gradient[0, 3:], codebook.T.expand(3, 7))
    assert not bool(gradient[0, :3].any())
    with pytest.raises(ValueError, match="a grid of 2 x 2 does not fit 6 positions"):
        on_images(lambda image: image.sum((1, 2, 3)), lambda z: z, codebook, grid=(2, 2))(x)
