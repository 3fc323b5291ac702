"""What users hand to sampling and guidance: conditions and targets, odd tokens, half precision, inference mode."""

import math
import re

import numpy as np
import pytest
import torch

from catreparam.guidance import (
    BlackBoxReward,
    aps,
    best_of_n,
    codebook_embed,
    entrgi,
    guided_sample,
    on_embeddings,
    on_images,
    optimize_logits,
    smc,
    svdd,
)
from catreparam.masked_diffusion import ClassifierFree, as_denoiser, from_masked_lm, from_mdlm, prior_of, sample
from guidance_bed import masked, pair_reward, uniform
from methods import seeded

GUIDED = {
    "guided_sample": lambda *args, **kwargs: guided_sample(
        *args, **{"estimator": "straight_through", "num_steps": 3, **kwargs}
    ),
    "best_of_n": lambda *args, **kwargs: best_of_n(*args, num_candidates=8, **kwargs),
    "svdd": lambda *args, **kwargs: svdd(*args, num_candidates=8, **kwargs),
    "smc": lambda *args, **kwargs: smc(*args, num_particles=8, **kwargs),
    "smc in chunks": lambda *args, **kwargs: smc(*args, num_particles=8, chunk_size=5, **kwargs),
    "aps": lambda *args, **kwargs: aps(*args, codebook=torch.eye(args[0].width), **kwargs),
    "entrgi": lambda *args, **kwargs: entrgi(*args, **kwargs),
}
BY_GRADIENT = ("aps", "entrgi")  # of the reward
REPEATING = ("best_of_n", "smc", "smc in chunks")


def said(name, *names):
    """The word on rows, for the methods that repeat sequences."""
    return {"per_sequence": names} if name in REPEATING else {}


def wide_uniform(width, mask_token):
    """A uniform prior whose mask may lie inside its vocabulary."""
    logits = torch.where(torch.arange(width) == mask_token, -math.inf, 0.0)
    denoiser = as_denoiser(lambda tokens: logits.expand(*tokens.shape, width), mask_token=mask_token)
    denoiser.width = width
    return denoiser


# Conditions and targets


def hits(x, target):
    """[B, L, V], [B] -> [B]: how many positions hold their sequence's target."""
    return x.gather(-1, target.reshape(-1, 1, 1).expand(*x.shape[:2], 1)).sum((1, 2))


@pytest.mark.parametrize(
    ("name", "black_box"),
    [(name, False) for name in GUIDED] + [(name, True) for name in GUIDED if name not in BY_GRADIENT],
)
def test_targets_reach_the_reward_with_their_sequences(name, black_box):
    target = torch.tensor([2, 0, 1, 2])
    reward, extra = hits, {}
    if black_box:
        reward = BlackBoxReward(lambda tokens, target: (tokens == target.unsqueeze(-1)).sum(-1))
        extra = {"estimator": "rloo", "num_samples": 2} if name == "guided_sample" else {}
    result = GUIDED[name](
        wide_uniform(3, 3),
        reward,
        masked(4),
        condition={"target": target},
        generator=seeded(),
        num_rounds=2,
        **said(name, "target"),
        **extra,
    )
    assert torch.equal(result.reward, (result.tokens == target.unsqueeze(-1)).sum(-1).float())
    if name in REPEATING:  # the best of eight hits two of three positions at least, .35 to the fourth it does not
        assert float(result.reward.min()) >= 1


@pytest.mark.parametrize("name", GUIDED)
@pytest.mark.parametrize("batch", [1, 3, 4])
def test_tables_stay_whole_whatever_the_size_of_the_batch(name, batch):
    """A lookup table of 4 classes beside the labels: only the labels belong to the sequences."""
    table = torch.eye(4).log()
    label = torch.tensor([3, 1, 2, 0])[:batch]
    denoiser = as_denoiser(lambda tokens, label, table: table[label][:, None].expand(*tokens.shape, 4), mask_token=4)
    denoiser.width = 4
    result = GUIDED[name](
        denoiser,
        lambda x: x[..., 0].sum(-1),
        torch.full((batch, 3), 4),
        num_rounds=2,
        condition={"label": label, "table": table},
        **said(name, "label"),
    )
    assert torch.equal(result.tokens, label.unsqueeze(-1).expand(batch, 3))


@pytest.mark.parametrize("name", REPEATING)
def test_entries_that_may_be_either_need_the_word(name):
    denoiser = as_denoiser(lambda tokens, **condition: torch.zeros(*tokens.shape, 3), mask_token=3)
    call = {"condition": {"label": torch.zeros(4).long(), "names": list("abcd"), "scale": 2.0}}
    with pytest.raises(ValueError, match=re.escape("per_sequence=('label', 'names'), or () for none")):
        GUIDED[name](denoiser, pair_reward, masked(4), **call)
    for word, error, message in (
        (("lable",), ValueError, "per_sequence names 'lable', which the condition lacks; it has label, names, scale"),
        (("scale",), ValueError, "condition 'scale' must have a row for each of 4 sequences, got None"),
        ("label", TypeError, r"per_sequence must be a tuple of names, got 'label'; write \('label',\)"),
    ):
        with pytest.raises(error, match=message):
            GUIDED[name](denoiser, pair_reward, masked(4), per_sequence=word, **call)
    GUIDED[name](denoiser, pair_reward, masked(4), per_sequence=("names",), num_rounds=1, **call)


@pytest.mark.parametrize("name", GUIDED)
def test_a_condition_that_nobody_takes_is_an_error(name):
    denoiser = as_denoiser(lambda tokens, label: torch.zeros(*tokens.shape, 3), mask_token=3)
    denoiser.width = 3
    message = "neither the denoiser nor the reward takes the condition 'lable'; they take label, target"
    with pytest.raises(TypeError, match=message):
        GUIDED[name](denoiser, hits, masked(2), condition={"lable": torch.zeros(2).long()})


def test_scores_of_embeddings_and_images_take_targets():
    codebook, target = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([2.0, 0.0])
    near = on_embeddings(lambda embedded, target: -(embedded.sum((1, 2)) - target).square(), codebook)
    image = on_images(lambda z, target: -(z.sum((1, 2, 3)) - target).square(), lambda z: z, codebook, grid=(1, 3))
    for reward in (near, image):
        result = best_of_n(
            uniform(3),
            reward,
            masked(2),
            num_candidates=1024,
            condition={"target": target},
            per_sequence=("target",),
            num_rounds=1,
            generator=seeded(),
        )
        assert codebook[result.tokens].sum((1, 2)).tolist() == [2.0, 0.0]  # fails with probability 1e-16


# Tokens


@pytest.mark.parametrize("mask_token", [2, 6, 11])
@pytest.mark.parametrize("name", ["sample", *GUIDED])
def test_tokens_outside_the_vocabulary_are_one_error(name, mask_token):
    denoiser, start = wide_uniform(6, mask_token), torch.tensor([[mask_token, 1], [9, mask_token]])
    message = rf"tokens must lie in \[0, 6\) or be the mask token {mask_token}, got 9"
    call = (lambda denoiser, reward, start: sample(denoiser, start)) if name == "sample" else GUIDED[name]
    with pytest.raises(ValueError, match=message):
        call(denoiser, lambda x: x[..., 0].sum(-1), start)


def test_models_that_look_tokens_up_name_what_they_were_given():
    model = torch.nn.Embedding(6, 6)
    with pytest.raises(IndexError, match="the denoiser failed on tokens from 5 to 9: index out of range"):
        sample(as_denoiser(model, mask_token=5), torch.tensor([[9, 5]]))


@pytest.mark.parametrize("adapter", ["masked_lm", "mdlm"])
@pytest.mark.parametrize("token", [0, 3, 5])
@pytest.mark.parametrize("name", GUIDED)
def test_rewards_on_embeddings_fit_wherever_the_mask_is(name, adapter, token):
    """A codebook of all 6 ids, the mask's among them; the mask is never drawn."""
    make = from_masked_lm if adapter == "masked_lm" else from_mdlm
    model = (
        (lambda input_ids: torch.zeros(*input_ids.shape, 6))
        if adapter == "masked_lm"
        else (lambda tokens, sigma: torch.zeros(*tokens.shape, 6))
    )
    denoiser, codebook = make(model, mask_token=token), torch.arange(6.0).unsqueeze(-1)
    denoiser.width = 6
    reward = on_embeddings(lambda embedded: embedded.sum((1, 2)), codebook)
    result = GUIDED[name](denoiser, reward, torch.full((2, 4), token), num_rounds=2, generator=seeded())
    assert not bool((result.tokens == token).any())
    assert torch.allclose(result.reward, result.tokens.sum(-1).float())


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1e-3, 1e-30])
def test_low_temperatures_draw_the_mode_in_every_dtype(dtype, temperature):
    logits = (1e3 * torch.randn(6, 5, generator=seeded())).to(dtype)
    denoiser = as_denoiser(lambda tokens: logits.expand(tokens.shape[0], 6, 5), mask_token=5)
    result = sample(denoiser, torch.full((3, 6), 5), temperature=temperature, generator=seeded())
    assert torch.equal(result.tokens, logits.argmax(-1).expand(3, 6))
    assert result.log_prob.abs().max() < 1e-6


def test_denormal_temperatures_are_refused():
    with pytest.raises(ValueError, match=r"temperature must be at least 1\.17549e-38, got 1e-40"):
        sample(uniform(), torch.full((1, 2), 9), temperature=1e-40)


def test_classifier_free_guidance_of_half_precision_does_not_overflow():
    logits = {0: torch.tensor([6e4, -6e4, 0.0]).half(), 1: torch.tensor([-6e4, 6e4, 0.0]).half()}
    model = as_denoiser(lambda tokens, label: logits[int(label[0])].expand(*tokens.shape, 3), mask_token=3)
    guided = ClassifierFree(model, null_condition={"label": torch.tensor([0])}, weight=3.0)
    prior = prior_of(guided, masked(1), {"label": torch.tensor([1])}, temperature=0.5)
    exact = 4 * logits[1].double() - 3 * logits[0].double()
    assert torch.allclose(prior[0, 0].double(), (exact - exact.max()) / 0.5)
    weight = ClassifierFree(model, null_condition={"label": torch.tensor([0])}, weight=lambda fraction: 2 * fraction)
    long = torch.zeros(1, 4097).long()
    long[0, 0] = 3  # a fraction that half precision rounds to 1
    assert float(weight(long, label=torch.tensor([1]))[0, 0, 2]) == 0.0
    assert weight(long, label=torch.tensor([1])).dtype == torch.float32


# Modes of torch


@pytest.mark.parametrize("estimator", ["straight_through", "redge", "exact_redge", "reinmax", "gumbel_softmax", "rloo"])
def test_guidance_works_in_inference_mode(estimator):
    codebook = torch.arange(3.0).unsqueeze(-1)
    expected = run_with(codebook, estimator)
    with torch.inference_mode():
        found = run_with(codebook, estimator)
    for one, two in zip(expected, found, strict=True):
        assert torch.equal(one, two)
        assert not two.is_inference()


def run_with(codebook, estimator):
    """The calls of the test above; tensors for the package are made inside the mode, the reward's own outside."""
    start = masked(4)
    start[:, 0] = 1
    extra = {"estimator": estimator, "num_samples": 2, "num_steps": 4}

    def reward(x):
        return codebook_embed(x, codebook).sum((1, 2))

    one = guided_sample(uniform(3), reward, start, num_rounds=2, generator=seeded(), **extra)
    two = optimize_logits(torch.zeros(2, 3, 3), reward, tokens=start[:2], generator=seeded(), **extra)
    return one.tokens, one.reward, two.logits


@pytest.mark.parametrize("name", GUIDED)
def test_every_method_works_in_inference_mode(name):
    codebook = torch.arange(3.0)
    with torch.inference_mode():
        result = GUIDED[name](wide_uniform(3, 3), lambda x: (x @ codebook).sum(-1), masked(2), generator=seeded())
    again = GUIDED[name](wide_uniform(3, 3), lambda x: (x @ codebook).sum(-1), masked(2), generator=seeded())
    assert torch.equal(result.tokens, again.tokens)
    assert torch.equal(result.reward, again.reward)


# Rewards that write into their argument


@pytest.mark.parametrize("estimator", ["straight_through", "redge", "exact_redge", "rloo", "arsm", "relax", "exact"])
@pytest.mark.parametrize("commit", ["sample", "best"])
def test_rewards_may_write_into_their_argument(estimator, commit):
    weights = torch.arange(3.0)
    start = torch.tensor([[0, 3, 3], [3, 1, 3], [3, 3, 3]])
    free = [start, masked(3)]  # with tokens to keep, and without

    def found(reward, tokens):
        settings = {"estimator": estimator, "num_samples": 2 if estimator == "rloo" else 1, "num_rounds": 2}
        result = guided_sample(
            wide_uniform(3, 3), reward, tokens, num_steps=3, commit=commit, generator=seeded(), **settings
        )
        return result.tokens.tolist(), result.reward.tolist(), result.trace.rows

    for tokens in free:
        assert found(lambda x: x.mul_(2) @ weights @ torch.ones(3), tokens) == found(
            lambda x: (2 * x) @ weights @ torch.ones(3), tokens
        )


@pytest.mark.parametrize("answer", [True, torch.tensor(True), torch.tensor([True]), np.bool_(True), 1])
def test_any_true_answer_of_a_callback_stops(answer):
    rounds, steps, rest = [], [], {"estimator": "reinmax"}
    denoiser = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 3), mask_token=3)
    reward = lambda x: x[..., 0].sum(-1)  # noqa: E731
    guided_sample(denoiser, reward, torch.full((1, 4), 3), callback=lambda info: rounds.append(info) or answer, **rest)
    optimize_logits(torch.zeros(1, 4, 3), reward, callback=lambda info: steps.append(info) or answer, **rest)
    assert len(rounds) == len(steps) == 1


@pytest.mark.parametrize("answer", [0.93, "yes", torch.tensor([True, True]), (None, None)])
def test_an_answer_of_a_callback_that_is_no_bool_is_an_error(answer):
    with pytest.raises(TypeError, match="what a callback returns must be True or False, got"):
        optimize_logits(
            torch.zeros(1, 4, 3), lambda x: x[..., 0].sum(-1), estimator="reinmax", callback=lambda info: answer
        )
