"""Rewards that are networks of their own: another model of transformers with the same vocabulary."""

import pytest
import torch

from catreparam.guidance import codebook_embed, guided_sample, on_embeddings, smc
from catreparam.masked_diffusion import from_masked_lm, one_hot_tokens, sample
from methods import seeded

VOCABULARY, PAD, MASK = 24, 0, 4
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SIZES |= {"max_position_embeddings": 16, "initializer_range": 0.5}
TOKENS = torch.tensor([[7, MASK, MASK, 9, MASK, MASK], [MASK, 8, MASK, MASK, PAD, PAD]])
ESTIMATORS = ["redge", "reinmax", "straight_through", "gumbel_softmax"]


def networks(width=VOCABULARY, dtype=torch.float32):
    """A denoiser of 24 tokens, and a judge of another size with embeddings for `width` of them."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=VOCABULARY, **SIZES)).eval()
    wide = transformers.RobertaConfig(vocab_size=width, num_labels=1, **SIZES | {"hidden_size": 32}, pad_token_id=PAD)
    judge = transformers.RobertaForSequenceClassification(wide).eval().to(dtype).requires_grad_(False)
    return from_masked_lm(model, mask_token=MASK), judge


def reward_of(judge):
    """What stands in docs/guidance.md: the judge on embeddings, padding outside of its attention."""
    table = judge.get_input_embeddings().weight[:VOCABULARY]

    def reward(x):
        embedded = codebook_embed(x, table).to(judge.dtype)
        return judge(inputs_embeds=embedded, attention_mask=(x[..., PAD] == 0).long()).logits[:, 0].float()

    return reward


@pytest.mark.parametrize("width", [VOCABULARY, 32])
def test_the_reward_is_the_judges_opinion_of_the_tokens(width):
    denoiser, judge = networks(width)
    tokens = sample(denoiser, TOKENS, num_rounds=2, generator=seeded()).tokens
    x = one_hot_tokens(tokens, VOCABULARY).requires_grad_()
    value = reward_of(judge)(x)
    mask, places = (tokens != PAD).long(), torch.arange(tokens.shape[1]).expand_as(tokens) + 1  # padding's id, and on
    assert torch.allclose(value, judge(input_ids=tokens, attention_mask=mask, position_ids=places).logits[:, 0])
    product = x @ judge.get_input_embeddings().weight[:VOCABULARY]
    same = judge(inputs_embeds=product, attention_mask=mask).logits[:, 0]
    found, wanted = (torch.autograd.grad(each.sum(), x)[0] for each in (value, same))
    assert torch.allclose(found, wanted, atol=1e-6)
    assert float(found.abs().max()) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_guidance_pleases_another_model(estimator, dtype):
    denoiser, judge = networks(32, dtype)
    tokens = TOKENS.repeat(16, 1)
    settings = {"num_rounds": 2, "generator": seeded()}
    plain = sample(denoiser, tokens, **settings).tokens
    reward = reward_of(judge)
    found = guided_sample(denoiser, reward, tokens, estimator=estimator, kl_weight=0.05, num_steps=10, **settings)
    before, after = reward(one_hot_tokens(plain, VOCABULARY)), found.reward
    assert float(after.mean()) > float(before.mean()) + 2 * float(before.std()) / 32**0.5
    assert torch.equal(found.tokens[tokens != MASK], tokens[tokens != MASK])


def test_methods_without_gradients_take_it_too():
    denoiser, judge = networks(32)
    found = smc(denoiser, reward_of(judge), TOKENS, num_particles=4, num_rounds=2, generator=seeded())
    assert torch.allclose(found.reward, reward_of(judge)(one_hot_tokens(found.tokens, VOCABULARY)))


@pytest.mark.parametrize("width", [20, 32])
def test_vocabularies_of_two_widths_are_named_with_a_remedy(width):
    denoiser, judge = networks(width)
    table = judge.get_input_embeddings().weight
    reward = on_embeddings(lambda embedded: judge(inputs_embeds=embedded).logits[:, 0], table)
    with pytest.raises(ValueError, match=rf"24\) does not fit a codebook \({width}, 32\).*codebook\[:x.shape\[-1\]\]"):
        guided_sample(denoiser, reward, TOKENS, estimator="reinmax", num_rounds=1)
