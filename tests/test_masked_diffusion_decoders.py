"""Orders, blocks, thresholds, special tokens: the rules of published decoders, written here from their description."""

import pytest
import torch

from catreparam.guidance import guided_sample, smc
from catreparam.masked_diffusion import (
    Unmasking,
    as_denoiser,
    from_masked_lm,
    from_mdlm,
    prior_of,
    reverse_step,
    sample,
)
from catreparam.masked_diffusion.orders import Proposal, make_order
from methods import seeded

VOCABULARY, MASK = 12, 12
TABLE = torch.randn(VOCABULARY + 1, 6, generator=seeded(1))
OUT = torch.randn(6, VOCABULARY, generator=seeded(2))
PROMPT = torch.tensor([[3, 1, 4], [5, 9, 2]])


def logits_of(tokens):
    """A model in which every token has a say at every position."""
    hidden = TABLE[tokens]
    places = torch.arange(tokens.shape[1]).sin().view(1, -1, 1)
    return (hidden.roll(1, 1) + 0.7 * hidden.roll(-2, 1) + places + hidden.mean(1, keepdim=True)).tanh() @ OUT * 2


MODEL = as_denoiser(logits_of, mask_token=MASK)


def start(length):
    return torch.cat([PROMPT, torch.full((2, length), MASK)], 1)


def llada(length, steps, block_size):
    """Blocks in turn; each step reveals the surest greedy tokens, as many as the block's length by its steps, and one
    more in the first steps where that does not divide."""
    tokens, blocks = start(length), length // block_size
    for block in range(blocks):
        inside = torch.zeros(tokens.shape[1], dtype=torch.bool)
        inside[3 + block * block_size : 3 + (block + 1) * block_size] = True
        each, more = divmod(block_size, steps // blocks)
        for step in range(steps // blocks):
            sure, greedy = logits_of(tokens).softmax(-1).max(-1)
            for row in range(len(tokens)):
                open_ = ((tokens[row] == MASK) & inside).nonzero().squeeze(-1)
                best = open_[sure[row, open_].topk(each + (step < more)).indices]
                tokens[row, best] = greedy[row, best]
    return tokens


@pytest.mark.parametrize(
    ("length", "steps", "block_size"),
    [(8, 8, 8), (8, 3, 8), (8, 4, 4), (10, 4, 10), (12, 6, 4), (12, 9, 4), (12, 12, 1)],
)
def test_blocks_by_confidence_are_lladas_token_for_token(length, steps, block_size):
    settings = {"num_rounds": steps, "schedule": "even", "order": "model_confidence", "commit": "argmax"}
    found = sample(MODEL, start(length), block_size=block_size, **settings)
    assert torch.equal(found.tokens, llada(length, steps, block_size))
    if block_size == length:
        assert torch.equal(found.tokens, sample(MODEL, start(length), **settings).tokens)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_models_confidence_knows_no_temperature(temperature):
    settings = {"num_rounds": 8, "order": "model_confidence", "commit": "argmax"}
    warm = sample(MODEL, start(8), temperature=temperature, **settings)
    assert torch.equal(warm.tokens, sample(MODEL, start(8), **settings).tokens)
    scores = []  # and "confidence" does
    for order in ("confidence", "model_confidence"):
        score = make_order(order, 11)
        prior = logits_of(start(8)) / temperature
        log_prob, tokens = prior.log_softmax(-1).max(-1)
        scores.append(score(Proposal(tokens, log_prob, 0.5, prior, prior, temperature)))
    assert not torch.allclose(scores[0], scores[1])
    assert torch.allclose(scores[1], logits_of(start(8)).log_softmax(-1).amax(-1), atol=1e-5)


@pytest.mark.parametrize("order", ["entropy", "margin", "confidence", "left_to_right"])
def test_one_reveal_a_round_goes_where_the_order_says(order):
    seen = []
    sample(
        MODEL,
        start(5),
        num_rounds=5,
        order=order,
        commit="argmax",
        callback=lambda _, tokens: seen.append(tokens.clone()),
    )
    tokens = start(5)
    for after in seen:
        probs = logits_of(tokens).softmax(-1)
        top = probs.topk(2).values
        score = {
            "entropy": (probs * probs.log()).sum(-1),
            "margin": top[..., 0] - top[..., 1],
            "confidence": top[..., 0],
            "left_to_right": -torch.arange(8.0).expand(2, 8),
        }[order]
        place = score.masked_fill(tokens != MASK, -torch.inf).argmax(-1, keepdim=True)
        tokens = tokens.scatter(1, place, probs.argmax(-1).gather(1, place))
        assert torch.equal(after, tokens)


def test_a_function_of_the_proposal_is_an_order_and_the_older_form_too():
    settings = {"num_rounds": 4, "commit": "argmax"}
    by_name = sample(MODEL, start(8), order="margin", **settings).tokens
    assert torch.equal(sample(MODEL, start(8), order=lambda proposal: proposal.margin, **settings).tokens, by_name)
    by_name = sample(MODEL, start(8), order="confidence", **settings).tokens
    older = sample(MODEL, start(8), order=lambda log_prob, progress, generator: log_prob, **settings).tokens
    assert torch.equal(older, by_name)


def test_a_threshold_reveals_what_is_sure_and_at_least_one():
    seen = [start(8)]
    settings = {"num_rounds": 20, "order": "confidence", "threshold": 0.6, "commit": "argmax"}
    sample(MODEL, seen[0], callback=lambda _, tokens: seen.append(tokens.clone()), **settings)
    for before, after in zip(seen, seen[1:], strict=False):
        sure = logits_of(before).softmax(-1).amax(-1) >= 0.6
        for row in range(2):
            masked, shown = before[row] == MASK, (before[row] == MASK) & (after[row] != MASK)
            wanted = sure[row] & masked
            assert torch.equal(shown, wanted) if wanted.any() else int(shown.sum()) == min(1, int(masked.sum()))
    blocks = sample(MODEL, seen[0], block_size=3, **settings).tokens
    assert not bool((blocks == MASK).any())


def test_remasked_tokens_are_not_made_up_for_by_unsure_ones():
    """With a threshold the number revealed does not grow by what is masked again."""
    tokens, clean = torch.tensor([[MASK, MASK, MASK, 1, 1, 1]]), torch.full((1, 6), 2)
    after = reverse_step(
        tokens, clean, torch.tensor([[0.9, 0.3, 0.2, 1.0, 1.0, 1.0]]).log(), round_index=1, mask_token=MASK,
        unmasking=Unmasking(4, order="confidence", remask_sigma=1.0, threshold=0.5), maskable=torch.ones(1, 6).bool(),
    )  # fmt: skip
    assert bool((after[0, 3:] == MASK).any())
    assert after[0, :3].tolist() == [2, MASK, MASK]


def test_blocks_follow_one_another_in_every_sequence():
    tokens = torch.tensor([[MASK, 1, MASK, MASK, MASK, 2], [MASK, MASK, MASK, 3, 4, MASK]])
    seen = []
    sample(
        MODEL, tokens, num_rounds=4, block_size=2, generator=seeded(),
        callback=lambda _, tokens: seen.append((tokens == MASK).tolist()),
    )  # fmt: skip
    assert seen[1] == [[False, False, False, True, True, False], [False, False, True, False, False, True]]
    assert not any(map(any, seen[3]))


def test_rounds_that_do_not_divide_among_blocks_are_named():
    with pytest.raises(ValueError, match="num_rounds must divide among 3 blocks"):
        sample(MODEL, start(8), num_rounds=4, block_size=3)
    with pytest.raises(ValueError, match="threshold chooses by probability"):
        Unmasking(threshold=0.5)


def test_guidance_optimises_the_present_block_alone():
    tilts = []

    def note(info):
        tilts.append((info.optimized.tilt.abs().amax(-1) > 0, info.tokens.clone()))

    found = guided_sample(
        MODEL, lambda x: 20 * x[..., 7].sum(-1), start(8), estimator="redge", num_rounds=4, num_steps=9, block_size=4,
        order="confidence", lr=2.0, forgetting=1.0, callback=note, generator=seeded(),
    )  # fmt: skip
    before = start(8)
    for moved, after in tilts:
        block = slice(3, 7) if bool((before[:, 3:7] == MASK).any()) else slice(7, 11)
        wanted = torch.zeros_like(moved)
        wanted[:, block] = before[:, block] == MASK
        assert torch.equal(moved, wanted)
        before = after
    plain = sample(MODEL, start(8), num_rounds=4, order="confidence", block_size=4, generator=seeded()).tokens
    assert (found.tokens == 7).sum() > (plain == 7).sum()


def test_one_block_is_no_block_in_guidance():
    def found(**settings):
        return guided_sample(
            MODEL, lambda x: x[..., 7].sum(-1), start(6), estimator="reinmax", num_rounds=3, num_steps=3, **settings,
            generator=seeded(),
        ).tokens  # fmt: skip

    assert torch.equal(found(), found(block_size=6))


def test_what_keeps_no_logits_says_so():
    with pytest.raises(ValueError, match="looks at logits, which this method does not keep; use sample"):
        smc(
            MODEL,
            lambda x: x[..., 0].sum(-1),
            start(4),
            num_particles=2,
            reward_weight=1.0,
            order="entropy",
            num_rounds=2,
        )


class Config:
    vocab_size, mask_token_id, pad_token_id, eos_token_id = 12, 4, 0, 2


class LanguageModel:
    config = Config()

    def __call__(self, input_ids):
        return torch.zeros(*input_ids.shape, 12)


@pytest.mark.parametrize(
    ("settings", "never"), [({}, {0, 2, 4}), ({"forbidden": ()}, {4}), ({"forbidden": [5, 6]}, {4, 5, 6})]
)
def test_special_tokens_are_never_drawn(settings, never):
    denoiser = from_masked_lm(LanguageModel(), **settings)
    prior = prior_of(denoiser, torch.full((1, 3), 4))
    assert {int(token) for token in (prior[0, 0] == -torch.inf).nonzero()} == never
    kept = sample(denoiser, torch.tensor([[0, 4, 2]]), num_rounds=1, generator=seeded()).tokens
    assert kept[0, [0, 2]].tolist() == [0, 2]


def test_forbidden_tokens_of_a_function_and_outside_the_vocabulary():
    denoiser = as_denoiser(logits_of, mask_token=MASK, forbidden=range(11))
    assert sample(denoiser, start(3), num_rounds=2).tokens[:, 3:].unique().tolist() == [11]
    with pytest.raises(ValueError, match="forbidden token 40 lies outside the model's vocabulary of 12"):
        prior_of(as_denoiser(logits_of, mask_token=MASK, forbidden=[40]), start(3))


def test_models_with_time_are_told_the_masked_fraction():
    seen = []

    def timed(tokens, masked_fraction):
        seen.append(masked_fraction.tolist())
        return logits_of(tokens)

    sample(as_denoiser(timed, mask_token=MASK), start(3), num_rounds=3, order="left_to_right")
    assert seen == [pytest.approx([count / 6] * 2) for count in (3, 2, 1)]
    sigmas = []
    denoiser = from_mdlm(
        lambda tokens, sigma: sigmas.append(sigma.tolist()) or torch.zeros(*tokens.shape, 13),
        mask_token=MASK,
        sigma=lambda fraction: -torch.log1p(-0.9 * fraction),
    )
    prior_of(denoiser, start(3))
    assert sigmas == [pytest.approx([0.5978, 0.5978], abs=1e-4)]
