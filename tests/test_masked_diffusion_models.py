"""Masked language models of transformers as denoisers: padding, wide vocabularies, half precision, several devices."""

import math

import pytest
import torch
from torch import nn

from catreparam.guidance import best_of_n, guided_sample, smc, svdd
from catreparam.masked_diffusion import from_masked_lm, prior_of, sample
from methods import seeded

VOCABULARY, BEGIN, PAD, END, MASK = 24, 0, 1, 2, 4
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 32, "initializer_range": 0.5,
    "pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END, "cls_token_id": BEGIN, "sep_token_id": END,
}  # fmt: skip
KINDS = ["Bert", "Roberta", "ModernBert", "Esm"]
LONG = [BEGIN, 7, MASK, MASK, 9, MASK, END]
SHORT = [BEGIN, MASK, 8, MASK, END]
PADDED = torch.tensor([LONG, [*SHORT, PAD, PAD]])
GIVEN = PADDED != MASK
METHODS = {
    "sample": lambda denoiser, tokens, **settings: sample(denoiser, tokens, **settings),
    "guided_sample": lambda denoiser, tokens, **settings: guided_sample(
        denoiser, reward, tokens, estimator="reinmax", num_steps=2, **settings
    ),
    "best_of_n": lambda denoiser, tokens, **settings: best_of_n(denoiser, reward, tokens, num_candidates=2, **settings),
    "svdd": lambda denoiser, tokens, **settings: svdd(denoiser, reward, tokens, num_candidates=2, **settings),
    "smc": lambda denoiser, tokens, **settings: smc(denoiser, reward, tokens, num_particles=2, **settings),
}


def reward(x):
    return x[..., 11].sum(-1)


def network(kind, dtype=torch.float32, **changes):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | changes)
    return getattr(transformers, f"{kind}ForMaskedLM")(config).eval().to(dtype)


def denoiser_of(kind, **changes):
    return from_masked_lm(network(kind, **changes), mask_token=MASK)


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_sequence_is_as_it_would_be_alone(kind):
    denoiser = denoiser_of(kind)
    prior = prior_of(denoiser, PADDED)
    allowed = [token for token in range(VOCABULARY) if token not in (BEGIN, PAD, END, 3, MASK)]
    assert torch.allclose(prior[1:, :5, allowed], prior_of(denoiser, torch.tensor([SHORT]))[..., allowed], atol=1e-5)
    assert torch.allclose(prior[:1, :, allowed], prior_of(denoiser, torch.tensor([LONG]))[..., allowed], atol=1e-5)
    unseen = network(kind)(input_ids=PADDED, attention_mask=torch.ones_like(PADDED)).logits.detach()
    assert not torch.allclose(prior[1:, :5, allowed], unseen[1:, :5, allowed], atol=1e-4)  # padding would have a say
    settings = {"num_rounds": 2, "order": "confidence", "commit": "argmax"}
    together = sample(denoiser, PADDED, **settings).tokens
    assert together[1, :5].tolist() == sample(denoiser, torch.tensor([SHORT]), **settings).tokens[0].tolist()
    assert together[0].tolist() == sample(denoiser, torch.tensor([LONG]), **settings).tokens[0].tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_never_drawn_and_never_changes(kind, method):
    found = METHODS[method](denoiser_of(kind), PADDED, num_rounds=3, generator=seeded()).tokens
    assert torch.equal(found[GIVEN], PADDED[GIVEN])
    assert not set(found[~GIVEN].tolist()) & {BEGIN, PAD, END, MASK}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_the_callers_is_the_one_that_counts(kind):
    denoiser, mask = denoiser_of(kind), (PADDED != PAD).long()
    assert torch.equal(prior_of(denoiser, PADDED), prior_of(denoiser, PADDED, {"attention_mask": mask}))
    fixed = from_masked_lm(network(kind), mask_token=MASK, attention_mask=torch.ones_like(PADDED))
    assert not torch.equal(prior_of(denoiser, PADDED), prior_of(fixed, PADDED))
    masked = torch.full((2, 7), MASK)
    with pytest.raises(ValueError, match="position 5 of sequence 1 holds the mask token, but its attention_mask is 0"):
        prior_of(denoiser, masked, {"attention_mask": mask})


class Recorded(nn.Module):
    """A masked language model that keeps what it was given; what it says at padding is no number."""

    def __init__(self, **config):
        super().__init__()
        self.config = type("Config", (), {"vocab_size": 9, "mask_token_id": 8, **config})()
        self.seen = []

    def forward(self, input_ids, attention_mask=None):
        self.seen.append(attention_mask)
        logits = torch.zeros(*input_ids.shape, 9)
        return logits if attention_mask is None else logits.masked_fill((attention_mask == 0).unsqueeze(-1), math.nan)


def test_what_a_model_says_at_padding_does_not_matter():
    model = Recorded(pad_token_id=0)
    tokens = torch.tensor([[8, 3, 0]])
    assert sample(from_masked_lm(model), tokens, num_rounds=1).tokens[0, 1:].tolist() == [3, 0]
    assert model.seen[0].tolist() == [[1, 1, 0]]
    sample(from_masked_lm(model, pad_token=3), tokens, num_rounds=1)
    assert model.seen[1].tolist() == [[1, 0, 1]]
    sample(from_masked_lm(model), tokens[:, :2], num_rounds=1)  # without padding it is called as ever
    assert model.seen[2] is None


def test_padding_that_also_ends_a_text_is_no_sign_of_padding():
    model = Recorded(pad_token_id=2, eos_token_id=2)
    sample(from_masked_lm(model), torch.tensor([[8, 2, 3]]), num_rounds=1)
    assert model.seen == [None]


def test_the_condition_of_the_reward_stays_with_the_reward():
    def towards(x, target):
        return -(x[..., 3].sum(-1) - target).square()

    target, tokens = torch.tensor([1.0, 0.0]), torch.full((2, 4), 8)
    condition = {"condition": {"target": target}, "estimator": "reinmax", "num_rounds": 2}
    assert guided_sample(from_masked_lm(Recorded()), towards, tokens, **condition).reward.shape == (2,)
    with pytest.raises(TypeError, match="neither the denoiser nor the reward takes the condition 'attention'"):
        sample(from_masked_lm(Recorded()), tokens, condition={"attention": None})


@pytest.mark.parametrize("kind", KINDS)
def test_logits_wider_than_the_tokenizer_are_cut(kind):
    model = network(kind)
    denoiser = from_masked_lm(model, mask_token=MASK, vocab_size=20, forbidden=[PAD])
    prior = prior_of(denoiser, PADDED)
    assert prior.shape == (2, 7, 20)
    whole = prior_of(from_masked_lm(model, mask_token=MASK, forbidden=[PAD]), PADDED)
    assert torch.equal(prior, whole[..., :20])
    found = guided_sample(denoiser, lambda x: x[..., 11].sum(-1), PADDED, estimator="reinmax", num_rounds=2)
    assert int(found.tokens.max()) < 20


def test_a_vocabulary_wider_than_the_logits_is_an_error():
    with pytest.raises(ValueError, match="vocab_size must be at most the model's 9, got 10"):
        prior_of(from_masked_lm(Recorded(), vocab_size=10), torch.tensor([[8]]))
    with pytest.raises(ValueError, match="forbidden token 9 lies outside the model's vocabulary of 9"):
        prior_of(from_masked_lm(Recorded(), forbidden=[9]), torch.tensor([[8]]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_models_in_bfloat16_are_drawn_from_in_float32(kind, method):
    denoiser = denoiser_of(kind, dtype=torch.bfloat16)
    prior = prior_of(denoiser, PADDED)
    assert prior.dtype == torch.float32
    allowed = prior > -torch.inf
    assert torch.allclose(prior[allowed], prior_of(denoiser_of(kind), PADDED)[allowed], atol=0.1, rtol=0.1)
    found = METHODS[method](denoiser, PADDED, num_rounds=2, generator=seeded())
    assert torch.equal(found.tokens[GIVEN], PADDED[GIVEN])
    assert not set(found.tokens[~GIVEN].tolist()) & {BEGIN, PAD, END, MASK}


class Elsewhere:
    """Logits on another device: all that can be done with them is to fetch them."""

    def __init__(self, logits):
        self.logits, self.fetched = logits, []

    def to(self, device):
        self.fetched.append(device)
        return self.logits


def test_logits_come_to_the_device_of_the_tokens():
    """No machine of ours has two accelerators: a stand-in for the second one."""
    logits = Elsewhere(torch.zeros(2, 3, 9))

    def in_pieces(input_ids):
        return type("Output", (), {"logits": logits})()

    assert int(sample(from_masked_lm(in_pieces, mask_token=8), torch.full((2, 3), 8)).tokens.max()) < 8
    assert set(logits.fetched) == {torch.device("cpu")}
