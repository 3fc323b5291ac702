"""Given tokens, a prompt say, cost guidance nothing that grows with their number, and change nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from catreparam.guidance import Reward, best_of_n, codebook_embed, guided_sample, optimize_logits, placing, smc, svdd
from catreparam.guidance.placing import Canvas, Placed
from catreparam.masked_diffusion import as_denoiser, sample
from catreparam.masked_diffusion import tokens as tokens_module

V, LENGTH = 5, 7
CODEBOOK = torch.randn(V, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TOKENS = torch.tensor([[1, V, 4, V, V, 0, 2], [V, 3, 3, 0, 1, V, 2]])  # three and two masked
ESTIMATORS = ["straight_through", "redge", "exact_redge", "reinmax", "gumbel_softmax", "gumbel_rao", "relax", "rloo"]


def embedded(x: Tensor) -> Tensor:
    return codebook_embed(x, CODEBOOK).square().mean((1, 2))


def dense(x: Tensor) -> Tensor:
    return (x @ CODEBOOK.to(x.dtype)).square().mean((1, 2))


def writes(x: Tensor) -> Tensor:
    x.mul_(2)
    return embedded(x) + x.square().sum((1, 2))


def writes_between(x: Tensor) -> Tensor:
    before = embedded(x)
    x[:, 0] = 0
    return before + embedded(x)


CASES = [(estimator, reward) for estimator in ESTIMATORS for reward in (embedded, dense, writes, writes_between)]
CASES += [("exact", embedded), ("exact", dense)]  # which runs under vmap, where nothing may be written into x


@pytest.mark.parametrize(("estimator", "reward"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_memory_that_is_used_again_changes_nothing(
    estimator: str, reward: Reward, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> list[Tensor]:
        result = optimize_logits(
            torch.zeros(2, LENGTH, V, dtype=dtype),
            reward,
            estimator=estimator,
            tokens=TOKENS,
            num_steps=4,
            num_samples=2,
            track_best=True,
            generator=torch.Generator().manual_seed(0),
        )
        best = [result.best_tokens, result.best_reward]
        return [result.logits, result.tilt, *(entry for entry in best if entry is not None)]

    here = found()
    monkeypatch.setattr(placing, "_is_ours_alone", lambda x: False)
    monkeypatch.setattr(Placed, "of", lambda x: None)
    for one, other in zip(here, found(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("keep", [lambda x: x, lambda x: x.detach(), lambda x: x[0, 2:]], ids=["x", "detached", "view"])
def test_what_a_reward_keeps_stays_as_it_was(keep: Callable[[Tensor], Tensor]) -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def reward(x: Tensor) -> Tensor:
        kept.append((keep(x), keep(x).detach().clone()))
        return embedded(x)

    generator = torch.Generator().manual_seed(0)
    optimize_logits(
        torch.zeros(2, LENGTH, V), reward, estimator="redge", tokens=TOKENS, num_steps=5, generator=generator
    )
    assert len(kept) == 5
    for then, now in kept:
        assert torch.equal(then.detach(), now)


def test_the_memory_of_x_is_used_again() -> None:
    places = set()

    def reward(x: Tensor) -> Tensor:
        places.add(x.data_ptr())
        return embedded(x)

    optimize_logits(torch.zeros(2, LENGTH, V), reward, estimator="redge", tokens=TOKENS, num_steps=5)
    assert len(places) == 1


@pytest.mark.parametrize("hard", [True, False])
def test_embeddings_of_completed_sequences_are_the_product(hard: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    index = torch.tensor([[1, 3, 4], [0, 5, 2]])
    canvas = Canvas(TOKENS.masked_fill(TOKENS == V, 0), index)
    rows = torch.randn(2, 3, V, dtype=torch.float64, generator=generator).softmax(-1)
    if hard:
        rows = torch.nn.functional.one_hot(rows.argmax(-1), V).double()
    rows.requires_grad_()
    codebook, upstream = CODEBOOK.clone().requires_grad_(), torch.randn(2, LENGTH, 3, generator=generator).double()
    x = canvas.complete(rows)
    assert Placed.of(x) is not None
    quick = torch.autograd.grad((codebook_embed(x, codebook) * upstream).sum(), (rows, codebook))
    x = torch.nn.functional.one_hot(canvas.tokens, V).double().scatter(1, index.unsqueeze(-1).expand(-1, -1, V), rows)
    plain = torch.autograd.grad((x @ codebook * upstream).sum(), (rows, codebook))
    torch.testing.assert_close(canvas.complete(rows), x)
    torch.testing.assert_close(quick, plain)


@pytest.mark.parametrize("method", ["sample", "guided_sample", "best_of_n", "svdd", "smc"])
def test_given_tokens_draw_no_noise(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = tokens_module.draw_exponential_like

    def counting(like: Tensor, generator: torch.Generator | None) -> Tensor:
        drawn.append(like.shape[:-1].numel())
        return draw(like, generator)

    monkeypatch.setattr(tokens_module, "draw_exponential_like", counting)
    denoiser = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, V), mask_token=V)
    calls = {
        "sample": lambda: sample(denoiser, TOKENS, num_rounds=1),
        "guided_sample": lambda: guided_sample(denoiser, embedded, TOKENS, estimator="redge", num_rounds=1),
        "best_of_n": lambda: best_of_n(denoiser, embedded, TOKENS, num_candidates=1, num_rounds=1),
        "svdd": lambda: svdd(denoiser, embedded, TOKENS, num_candidates=1, num_rounds=1),
        "smc": lambda: smc(denoiser, embedded, TOKENS, num_particles=1, num_rounds=1),
    }
    calls[method]()
    assert drawn == [5]
