"""The end of a text: what stands behind it, what it costs; Dream's count of reveals, and LLaDA's late ends."""

import pytest
import torch

from catreparam.guidance import best_of_n, guided_sample, smc, svdd
from catreparam.masked_diffusion import Unmasking, as_denoiser, one_hot_tokens, sample
from guidance_bed import product
from methods import seeded
from test_masked_diffusion_decoders import MASK, MODEL, PROMPT, VOCABULARY, logits_of, start

END, PAD = 5, 0
LOGITS = torch.randn(8, 6, generator=seeded(4)) + 2 * (torch.arange(6) == END)  # a text ends soon
TEXTS = product(LOGITS)  # tokens 0 to 5, mask 6
PLACES = torch.arange(8)


def reward(x):
    return x[..., PAD].sum(-1) - x[..., 1].sum(-1)


METHODS = {
    "sample": lambda tokens, **settings: sample(TEXTS, tokens, **settings),
    "guided_sample": lambda tokens, **settings: guided_sample(
        TEXTS, reward, tokens, estimator="reinmax", num_steps=2, **settings
    ),
    "best_of_n": lambda tokens, **settings: best_of_n(TEXTS, reward, tokens, num_candidates=3, **settings),
    "smc": lambda tokens, **settings: smc(TEXTS, reward, tokens, num_particles=3, **settings),
    "svdd": lambda tokens, **settings: svdd(TEXTS, reward, tokens, num_candidates=3, **settings),
}


@pytest.mark.parametrize("order", ["ancestral", "confidence", "left_to_right"])
@pytest.mark.parametrize("pad_token", [None, PAD])
@pytest.mark.parametrize("method", METHODS)
def test_behind_the_first_end_there_is_padding(method, pad_token, order):
    tokens = torch.full((40, 8), 6)
    tokens[:, 0], tokens[::2, 6] = END, 2  # an end in the prompt ends nothing; given tokens are kept
    settings = {"num_rounds": 4, "order": order, "end_token": END, "pad_token": pad_token, "generator": seeded()}
    found = METHODS[method](tokens, **settings)
    free = tokens == 6
    ends = (found.tokens == END) & free
    first = torch.where(ends.any(-1), ends.long().argmax(-1), 8)
    behind = free & (first.unsqueeze(-1) < PLACES)
    assert bool((found.tokens[behind] == (END if pad_token is None else pad_token)).all())
    assert int(behind.sum()) > 40
    assert torch.equal(found.tokens[~free], tokens[~free])
    assert bool((found.tokens < 6).all())
    if method != "sample":
        assert torch.equal(found.reward, reward(one_hot_tokens(found.tokens, 6)))


def test_padding_costs_nothing():
    """Read from left to right, nothing stands behind an end before it: the log-probability is the text's own."""
    settings = {"num_rounds": 8, "order": "left_to_right", "end_token": END, "pad_token": PAD, "generator": seeded()}
    for method in METHODS:
        found = METHODS[method](torch.full((20, 8), 6), **settings)
        log_probs = LOGITS.log_softmax(-1)[PLACES, found.tokens]
        ends = found.tokens == END
        text = ends.cumsum(-1) - ends.long() == 0
        expected = (log_probs * text).sum(-1)
        assert torch.allclose(found.log_prob if method == "sample" else found.prior_log_prob, expected, atol=1e-5)
        if method == "guided_sample":
            assert bool((found.kl >= 0).all())
            assert found.kl[~ends[:, 0]].mean() > found.kl[ends[:, 0]].mean()


def test_a_finished_text_asks_no_model():
    logits = torch.full((8, 6), -30.0).index_fill(1, torch.tensor(END), 0.0)
    settings = {"order": "left_to_right", "num_rounds": 8, "end_token": END}
    assert sample(product(logits), torch.full((2, 8), 6), **settings).model_evaluations == 1
    assert sample(product(logits), torch.full((2, 8), 6), num_rounds=8, order="left_to_right").model_evaluations == 8


def test_a_stopped_generation_ends_too():
    found = guided_sample(
        TEXTS, reward, torch.full((9, 8), 6), estimator="reinmax", num_steps=1, num_rounds=8, end_token=END,
        callback=lambda info: True, order="left_to_right", generator=seeded(),
    )  # fmt: skip
    behind = ((found.tokens == END).cumsum(-1) > 0).float().diff(dim=-1)
    assert bool((behind >= 0).all())
    assert bool((found.tokens[:, -1] == END).any())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pad_token": 1}, "pad_token stands behind an end_token, of which there is none; got 1"),
        ({"end_token": -1}, "end_token must be at least 0, got -1"),
        ({"end_token": 1, "remask_sigma": 0.5}, "end_token ends a text for good, remask_sigma takes tokens back"),
    ],
)
def test_bad_ends_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Unmasking(**settings)


# Token for token


def llada(length, steps, block_size, *, end=None, late=False):
    """LLaDA's blocks, cut at the first `end`; with `late` ends are as sure as nothing, and come last of their round."""
    tokens, blocks = start(length), length // block_size
    for block in range(blocks):
        inside = torch.zeros(tokens.shape[1], dtype=torch.bool)
        inside[3 + block * block_size : 3 + (block + 1) * block_size] = True
        each, more = divmod(block_size, steps // blocks)
        for step in range(steps // blocks):
            sure, greedy = logits_of(tokens).softmax(-1).max(-1)
            for row in range(len(tokens)):
                open_ = ((tokens[row] == MASK) & inside).nonzero().squeeze(-1).tolist()
                score = {
                    place: -1.0 if late and greedy[row, place] == 7 else float(sure[row, place]) for place in open_
                }
                for place in sorted(open_, key=lambda place: -score[place])[: each + (step < more)]:
                    tokens[row, place] = greedy[row, place]
                ends = (tokens[row, 3:] == end).nonzero() if end is not None else []
                if len(ends):
                    tokens[row, 3 + int(ends[0]) :] = end
    return tokens


SETTINGS = [(8, 4, 8), (8, 4, 4), (12, 6, 4), (12, 9, 4)]


@pytest.mark.parametrize("end", range(VOCABULARY))
@pytest.mark.parametrize(("length", "steps", "block_size"), SETTINGS)
def test_a_text_cut_at_its_end_is_lladas_token_for_token(length, steps, block_size, end):
    found = sample(
        MODEL, start(length), num_rounds=steps, block_size=block_size, schedule="even", order="model_confidence",
        commit="argmax", end_token=end,
    )  # fmt: skip
    assert torch.equal(found.tokens, llada(length, steps, block_size, end=end))


@pytest.mark.parametrize(("length", "steps", "block_size"), SETTINGS)
def test_ends_that_come_last_are_lladas_token_for_token(length, steps, block_size):
    found = sample(
        MODEL, start(length), num_rounds=steps, block_size=block_size, schedule="even", commit="argmax",
        order=lambda proposal: proposal.model_log_prob.masked_fill(proposal.tokens == 7, -torch.inf),
    )  # fmt: skip
    assert torch.equal(found.tokens, llada(length, steps, block_size, late=True))


SCORES = {
    "confidence": lambda probs: probs.amax(-1),
    "entropy": lambda probs: (probs * probs.log()).sum(-1),
    "margin": lambda probs: probs.topk(2).values.diff(dim=-1).squeeze(-1).neg(),
}


def shifted(tokens):
    """Logits of the next token, shifted to the position that they are of, as Dream's network needs it."""
    logits = logits_of(tokens)
    return torch.cat([logits[:, :1], logits[:, :-1]], 1)


def dream(length, steps, score):
    """The part 1 - s / t of the masked ones is revealed, rounded down; times fall from 1 to 0.001; all at the end."""
    tokens, times = start(length), torch.linspace(1, 1e-3, steps + 1)
    for step in range(steps):
        probs = shifted(tokens).softmax(-1)
        masked = tokens == MASK
        part = 1.0 if step == steps - 1 else float(1 - times[step + 1] / times[step])
        count = int(int(masked[0].sum()) * part)
        if count:
            places = score(probs).masked_fill(~masked, -torch.inf).topk(count).indices
            tokens = tokens.scatter(1, places, probs.argmax(-1).gather(1, places))
    return tokens


@pytest.mark.parametrize("order", SCORES)
@pytest.mark.parametrize(("length", "steps"), [(8, 8), (8, 3), (16, 16), (13, 7), (5, 12)])
def test_reveals_rounded_down_are_dreams_token_for_token(order, length, steps):
    settings = {"num_rounds": steps, "schedule": "floor", "order": order, "commit": "argmax"}
    found = sample(as_denoiser(shifted, mask_token=MASK), start(length), **settings).tokens
    assert torch.equal(found, dream(length, steps, SCORES[order]))
    assert torch.equal(found[:, :3], PROMPT)


def test_rounds_may_reveal_nothing_when_rounded_down():
    left = []
    sample(
        MODEL, start(8), num_rounds=8, schedule="floor", order="confidence", commit="argmax",
        callback=lambda _, tokens: left.append(int((tokens[0] == MASK).sum())),
    )  # fmt: skip
    assert left == [8, 7, 6, 5, 4, 3, 2, 0]
