"""Denoisers, classifier-free guidance, and adapters for models made elsewhere."""

import math

import pytest
import torch
from torch import nn

from catreparam.masked_diffusion import (
    ClassifierFree,
    Denoiser,
    as_denoiser,
    carry_over,
    from_masked_lm,
    from_mdlm,
    prior_of,
    sample,
)
from guidance_bed import chain
from methods import seeded


def test_modules_with_a_mask_token_are_denoisers():
    class Model(nn.Module):
        mask_token = 5

        def forward(self, tokens, **condition):
            return torch.zeros(*tokens.shape, 5)

    assert isinstance(Model(), Denoiser)
    assert bool((sample(Model(), torch.full((1, 4), 5)).tokens < 5).all())
    with pytest.raises(TypeError, match="needs a mask_token, Linear has none; wrap it by as_denoiser"):
        sample(nn.Linear(1, 1), torch.full((1, 4), 5))


def test_carry_over_allows_only_the_token():
    prior = carry_over(torch.zeros(1, 2, 3), torch.tensor([[1, 3]]), torch.tensor([[True, False]]))
    assert prior.tolist() == [[[-math.inf, 0.0, -math.inf], [0.0, 0.0, 0.0]]]


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(2, 3, 4), r"must map tokens \(1, 3\) to logits \[B, L, vocab_size\], got \(2, 3, 4\)"),
        (torch.zeros(1, 3), r"got \(1, 3\)"),
        (torch.full((1, 3, 4), math.nan), "hold NaN"),
        (torch.full((1, 3, 4), -math.inf), "row with no possible token"),
        (torch.zeros(1, 3, 5), r"mask_token 4 is inside the vocabulary of 5"),
    ],
)
def test_bad_prior_logits_are_refused(logits, message):
    with pytest.raises(ValueError, match=message):
        prior_of(as_denoiser(lambda tokens: logits, mask_token=4), torch.full((1, 3), 4))


def test_classifier_free_guidance_mixes_logits():
    logits = {0: torch.randn(1, 2, 3, generator=seeded(0)), 1: torch.randn(1, 2, 3, generator=seeded(1))}
    denoiser = as_denoiser(lambda tokens, label: logits[int(label[0])].expand(*tokens.shape, 3), mask_token=3)
    guided = ClassifierFree(denoiser, null_condition={"label": torch.tensor([0])}, weight=3.0)
    found = guided(torch.full((4, 2), 3), label=torch.tensor([1] * 4))
    assert torch.allclose(found, (4 * logits[1] - 3 * logits[0]).expand(4, 2, 3), atol=1e-5)
    assert guided.evaluations_per_call == 2
    result = sample(guided, torch.full((1, 2), 3), num_rounds=1, condition={"label": torch.tensor([1])})
    assert result.model_evaluations == 2


def test_classifier_free_weight_may_follow_the_unmasked_fraction():
    denoiser = as_denoiser(lambda tokens, bias: torch.full((*tokens.shape, 2), float(bias)), mask_token=2)
    guided = ClassifierFree(denoiser, null_condition={"bias": 0.0}, weight=lambda fraction: 2 * fraction)
    found = guided(torch.tensor([[2, 2], [0, 2], [0, 1]]), bias=1.0)
    assert found[:, 0, 0].tolist() == [1.0, 2.0, 3.0]


def test_classifier_free_guidance_keeps_impossible_tokens_impossible():
    logits = torch.tensor([[[0.0, -torch.inf]]])
    guided = ClassifierFree(as_denoiser(lambda tokens: logits, mask_token=2), null_condition={}, weight=3.0)
    assert guided(torch.tensor([[2]])).tolist() == [[[0.0, -math.inf]]]


def test_table_denoiser_conditions_by_bayes():
    denoiser = chain(3)
    p = denoiser.log_probs.exp().reshape(3, 3, 3)
    logits = denoiser(torch.tensor([[3, 1, 3]]))
    assert torch.allclose(logits[0, 0].exp().double(), p[:, 1].sum(-1) / p[:, 1].sum(), atol=1e-6)
    assert logits[0, 1].tolist() == pytest.approx([-math.inf, 0.0, -math.inf])
    tilted = denoiser.tilted(lambda x: 2 * x[:, 0, 0])
    q = p * torch.tensor([math.exp(2), 1, 1]).reshape(3, 1, 1)
    assert torch.allclose(tilted.log_probs.exp().reshape(3, 3, 3), q / q.sum())


# Adapters


class MaskedLM(nn.Module):
    """The interface of a masked language model: input_ids -> an object with logits over vocabulary and mask token."""

    def __init__(self, vocabulary: int, mask_token_id: int | None = None) -> None:
        super().__init__()
        self.config = type("Config", (), {} if mask_token_id is None else {"mask_token_id": mask_token_id})()
        self.logits = torch.arange(float(vocabulary))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None):
        return type("Output", (), {"logits": self.logits.expand(*input_ids.shape, -1)})()


def test_masked_language_models_keep_their_ids():
    denoiser = from_masked_lm(MaskedLM(6, mask_token_id=2))
    assert denoiser.mask_token == 2
    assert denoiser(torch.tensor([[2]]))[0, 0].tolist() == [0.0, 1.0, -math.inf, 3.0, 4.0, 5.0]
    result = sample(denoiser, torch.full((2, 8), 2), generator=seeded())
    assert not bool((result.tokens == 2).any())


@pytest.mark.parametrize("token", range(6))
def test_the_vocabulary_keeps_its_size_wherever_the_mask_is(token):
    for denoiser in (
        from_masked_lm(MaskedLM(6), mask_token=token),
        from_mdlm(lambda tokens, sigma: torch.zeros(*tokens.shape, 6), mask_token=token),
    ):
        logits = denoiser(torch.tensor([[token]]))
        assert logits.shape == (1, 1, 6)
        assert (logits[0, 0] == -torch.inf).nonzero().tolist() == [[token]]


def test_masked_language_models_need_a_mask_token():
    with pytest.raises(ValueError, match=r"pass mask_token=tokenizer.mask_token_id"):
        from_masked_lm(MaskedLM(6))
    with pytest.raises(ValueError, match="mask_token 9 lies outside the model's vocabulary of 6"):
        from_masked_lm(MaskedLM(6), mask_token=9)(torch.tensor([[9]]))


def test_bert_is_a_denoiser():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    model = transformers.BertForMaskedLM(config).eval()
    denoiser = from_masked_lm(model, mask_token=4)
    start = torch.tensor([[5, 4, 4, 7, 4]])
    result = sample(denoiser, start, num_rounds=3, condition={"attention_mask": torch.ones(1, 5)}, generator=seeded())
    assert result.tokens[0, [0, 3]].tolist() == [5, 7]
    assert not bool((result.tokens == 4).any())
    with torch.no_grad():
        expected = model(input_ids=start).logits
    others = [index for index in range(20) if index not in (0, 4)]  # padding and mask are never drawn
    assert torch.equal(prior_of(denoiser, start)[..., others], expected[..., others])


def test_mdlm_models_get_their_noise_level():
    seen = []

    def model(tokens, sigma):
        seen.append(sigma.tolist())
        log_probs = torch.log_softmax(torch.zeros(*tokens.shape, 6), -1)
        log_probs[..., 5] = -1e6  # the mask token, as such models have it
        return log_probs

    denoiser = from_mdlm(model, mask_token=5)
    assert bool((sample(denoiser, torch.full((2, 4), 5), num_rounds=1).tokens < 5).all())
    denoiser(torch.full((2, 4), 5), sigma=torch.tensor([0.5, 0.25]))
    assert seen == [[0.0, 0.0], [0.5, 0.25]]
