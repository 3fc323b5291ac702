"""Masked diffusion: schedules, orders, steps, samplers, denoisers and their adapters."""

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

from catreparam.masked_diffusion import (
    ReverseProcess,
    Unmasking,
    as_denoiser,
    confidence_order,
    draw_tokens,
    halton_order,
    mask_fraction,
    one_hot_tokens,
    reverse_step,
    sample,
)
from guidance_bed import chain, uniform
from methods import seeded

EXACT_COUNT_ORDERS = ["random", "confidence", "halton"]
FAILURE_RATE = 1e-4


# Schedules


@pytest.mark.parametrize("schedule", ["linear", "cosine", "arccos"])
def test_mask_fraction_falls_from_one_to_exactly_zero(schedule):
    values = [mask_fraction(schedule, step / 50) for step in range(51)]
    assert values[0] == 1.0
    assert values[-1] == 0.0
    assert all(later < earlier for earlier, later in pairwise(values))


def test_cosine_starts_slowest_and_arccos_ends_steepest():
    assert mask_fraction("cosine", 0.1) > mask_fraction("arccos", 0.1) > mask_fraction("linear", 0.1)
    assert mask_fraction("arccos", 0.9) > mask_fraction("cosine", 0.9) > mask_fraction("linear", 0.9)
    assert mask_fraction("arccos", math.cos(math.pi / 8)) == pytest.approx(0.25)


def test_schedule_errors_name_the_value():
    with pytest.raises(ValueError, match=r"unknown schedule 'cosin'.*'cosine'"):
        mask_fraction("cosin", 0.5)
    with pytest.raises(ValueError, match=r"progress must be .* got 1.5"):
        mask_fraction("linear", 1.5)


# Orders


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (7, 7), (5, 3), (24, 24)])
def test_halton_order_visits_every_position_once(height, width):
    assert sorted(halton_order(height, width).tolist()) == list(range(height * width))


def test_halton_order_is_that_of_the_points_in_floating_point():
    def van_der_corput(index: int, base: int) -> float:
        result, part = 0.0, 1.0
        while index:
            part /= base
            result += part * (index % base)
            index //= base
        return result

    cells = [(int(van_der_corput(i, 2) * 8 + 1e-12), int(van_der_corput(i, 3) * 8 + 1e-12)) for i in range(1, 3000)]
    expected = [row * 8 + column for row, column in dict.fromkeys(cells)]
    assert halton_order(8, 8).tolist() == expected[:64]


def test_halton_order_spreads_more_evenly_than_a_raster():
    def coverage(order: torch.Tensor) -> float:  # mean distance of a cell to the nearest of the first 36 positions
        cells = torch.stack(torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij"), -1).reshape(-1, 2)
        return torch.cdist(cells, cells[order[:36]]).amin(1).mean().item()

    assert coverage(halton_order(24, 24)) < 0.3 * coverage(torch.arange(576))


def test_orders_reveal_the_best_scores_first():
    tokens, clean = torch.full((1, 4), 9), torch.tensor([[1, 2, 3, 4]])
    confidence = torch.tensor([[-3.0, -1.0, -2.0, -4.0]])
    settings = {"round_index": 0, "maskable": tokens == 9, "mask_token": 9}
    after = reverse_step(tokens, clean, confidence, unmasking=Unmasking(2, order="confidence"), **settings)
    assert after.tolist() == [[9, 2, 3, 9]]
    after = reverse_step(
        tokens, clean, confidence, unmasking=Unmasking(2, order=torch.tensor([3, 0, 1, 2])), **settings
    )
    assert after.tolist() == [[1, 9, 9, 4]]
    after = reverse_step(tokens, clean, confidence, unmasking=Unmasking(2, order="halton"), **settings)
    assert after.tolist() == [[1, 9, 9, 4]] or after.tolist() == [[9, 2, 3, 9]]
    assert set((after[0] != 9).nonzero().flatten().tolist()) == set(halton_order(2, 2)[:2].tolist())


def test_noise_of_the_confidence_order_vanishes_at_the_end():
    order, scores = confidence_order(4.5), torch.zeros(1, 5)
    assert torch.equal(order(scores, 1.0, seeded()), scores)
    assert order(scores, 0.5, seeded()).std() > 0


def test_order_errors_say_what_to_pass():
    with pytest.raises(ValueError, match=r"square grid, got 6 positions; pass order=halton_order"):
        sample(uniform(), torch.full((1, 6), 9), order="halton")
    with pytest.raises(ValueError, match="each of the 6 positions once"):
        sample(uniform(), torch.full((1, 6), 9), order=torch.tensor([0, 1, 2, 3, 4, 4]))
    with pytest.raises(ValueError, match="unknown order 'halten'"):
        sample(uniform(), torch.full((1, 6), 9), order="halten")


# Steps


@pytest.mark.parametrize("remask_sigma", [0.0, 0.5])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "arccos"])
@pytest.mark.parametrize("order", EXACT_COUNT_ORDERS)
def test_orders_with_exact_counts_follow_the_schedule(order, schedule, remask_sigma):
    start, left = torch.full((3, 64), 9), []
    sample(
        uniform(),
        start,
        num_rounds=8,
        order=order,
        schedule=schedule,
        remask_sigma=remask_sigma,
        generator=seeded(),
        callback=lambda _, tokens: left.append((tokens == 9).sum(-1).tolist()),
    )
    expected = [math.ceil(64 * mask_fraction(schedule, r / 8) - 1e-6) for r in range(1, 9)]
    assert left == [[count] * 3 for count in expected]


@pytest.mark.parametrize("remask_sigma", [0.0, 1.0])
@pytest.mark.parametrize("order", ["ancestral", *EXACT_COUNT_ORDERS])
def test_given_tokens_are_kept_and_nothing_stays_masked(order, remask_sigma):
    start = torch.randint(0, 9, (4, 16), generator=seeded())
    start[torch.rand(4, 16, generator=seeded(1)) < 0.5] = 9
    seen = []
    result = sample(
        uniform(),
        start,
        num_rounds=6,
        order=order,
        remask_sigma=remask_sigma,
        generator=seeded(2),
        callback=lambda _, tokens: seen.append(tokens),
    )
    given = start != 9
    assert all(torch.equal(tokens[given], start[given]) for tokens in seen)
    assert bool((result.tokens < 9).all())


def test_without_remasking_revealed_tokens_stay():
    seen = [torch.full((8, 16), 9)]
    sample(uniform(), seen[0], num_rounds=6, generator=seeded(), callback=lambda _, tokens: seen.append(tokens))
    for earlier, later in pairwise(seen):
        shown = earlier != 9
        assert torch.equal(later[shown], earlier[shown])


def test_with_remasking_revealed_tokens_may_change():
    seen = [torch.full((8, 16), 9)]
    sample(
        uniform(),
        seen[0],
        num_rounds=6,
        remask_sigma=1.0,
        generator=seeded(),
        callback=lambda _, tokens: seen.append(tokens),
    )
    changed = [bool(((a != 9) & (b == 9)).any()) for a, b in pairwise(seen)]
    assert any(changed)
    assert not changed[-1]


@pytest.mark.statistical
@pytest.mark.parametrize("remask_sigma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_ancestral_steps_keep_the_marginals_of_the_schedule(
    schedule, remask_sigma
):  # 5 standard errors: 6e-7 each, 30 checks
    start, left = torch.full((1, 20_000), 9), []
    sample(
        as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 1), mask_token=9),
        start,
        num_rounds=6,
        schedule=schedule,
        remask_sigma=remask_sigma,
        generator=seeded(),
        callback=lambda _, tokens: left.append((tokens == 9).double().mean().item()),
    )
    for round_index, fraction in enumerate(left[:-1]):
        expected = mask_fraction(schedule, (round_index + 1) / 6)
        assert abs(fraction - expected) < 5 * math.sqrt(expected * (1 - expected) / 20_000)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_remask_sigma_outside_the_unit_interval_is_an_error(value):
    with pytest.raises(ValueError, match="remask_sigma must be"):
        Unmasking(remask_sigma=value)


# Sampling


@pytest.mark.statistical
@pytest.mark.parametrize("order", ["random", torch.tensor([2, 0, 3, 1])])
def test_one_position_a_round_samples_the_joint_law_of_a_table(order):  # fails by chance at FAILURE_RATE
    denoiser = chain()
    result = sample(denoiser, torch.full((20_000, 4), 3), num_rounds=4, order=order, generator=seeded())
    counts = torch.bincount(denoiser.index(result.tokens), minlength=81)
    assert stats.chisquare(counts.numpy(), 20_000 * denoiser.log_probs.exp().numpy()).pvalue > FAILURE_RATE
    expected = denoiser.log_probs[denoiser.index(result.tokens)]
    assert torch.allclose(result.log_prob.double(), expected, atol=1e-4)


@pytest.mark.statistical
def test_given_tokens_condition_the_law():  # fails by chance at FAILURE_RATE
    denoiser = chain(3)
    start = torch.tensor([[1, 3, 0]]).expand(20_000, 3)
    middle = sample(denoiser, start, num_rounds=1, generator=seeded()).tokens[:, 1]
    law = torch.tensor([0.1 * 0.7, 0.6 * 0.1, 0.3 * 0.4]).double()  # transition[1, m] * transition[m, 0]
    expected = (20_000 * law / law.sum()).numpy()
    assert stats.chisquare(torch.bincount(middle, minlength=3).numpy(), expected).pvalue > FAILURE_RATE


def test_the_same_seed_gives_the_same_sample_and_the_global_generator_is_left_alone():
    start, before = torch.full((4, 16), 9), torch.get_rng_state()
    settings = {"num_rounds": 4, "order": confidence_order(1.0), "remask_sigma": 0.5}
    one, two = (sample(uniform(), start, generator=seeded(3), **settings) for _ in range(2))
    assert torch.equal(one.tokens, two.tokens)
    assert not torch.equal(one.tokens, sample(uniform(), start, generator=seeded(4), **settings).tokens)
    assert torch.equal(before, torch.get_rng_state())


def test_finished_generations_call_the_denoiser_no_more():
    done = torch.tensor([[1, 2, 3]])
    with pytest.warns(UserWarning, match="no position of tokens holds the mask token 9: nothing is generated"):
        result = sample(uniform(), done, num_rounds=5)
    assert torch.equal(result.tokens, done)
    assert result.model_evaluations == 0
    assert sample(uniform(), torch.tensor([[1, 9, 9]]), num_rounds=5, order="random").model_evaluations == 2


def test_temperature_near_zero_draws_the_mode():
    logits = torch.randn(1, 6, 5, generator=seeded())
    denoiser = as_denoiser(lambda tokens: logits.expand(tokens.shape[0], 6, 5), mask_token=5)
    result = sample(denoiser, torch.full((3, 6), 5), temperature=1e-3, generator=seeded())
    assert torch.equal(result.tokens, logits.argmax(-1).expand(3, 6))


def test_impossible_tokens_are_never_drawn():
    logits = torch.tensor([0.0, -torch.inf, 0.0]).expand(50, 40, 3)
    tokens, log_prob = draw_tokens(logits, seeded())
    assert not bool((tokens == 1).any())
    assert torch.allclose(log_prob, torch.tensor(0.5).log())


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (torch.zeros(2, 3), TypeError, r"torch.long tensor \[B, L\], got torch.float32"),
        (torch.zeros(3, dtype=torch.long), TypeError, r"got torch.int64 \(3,\)"),
        (torch.tensor([[-1, 9]]), ValueError, "at least 0, got -1"),
        ([[1, 2]], TypeError, "got list"),
    ],
)
def test_bad_tokens_are_refused(tokens, error, message):
    with pytest.raises(error, match=message):
        sample(uniform(), tokens)


def test_a_process_can_be_repeated_with_its_condition():
    denoiser = as_denoiser(lambda tokens, **condition: torch.zeros(*tokens.shape, 9), mask_token=9)
    condition = {"label": torch.tensor([4, 5]), "scale": 2.0}
    process = ReverseProcess.start(
        denoiser, torch.full((2, 3), 9), Unmasking(), condition, per_sequence=["label"]
    ).repeated(3)
    assert process.maskable.shape == (6, 3)
    assert process.condition["label"].tolist() == [4, 4, 4, 5, 5, 5]
    assert process.condition["scale"] == 2.0


def test_one_hot_tokens_refuse_masked_ones():
    assert one_hot_tokens(torch.tensor([[0, 2]]), 3).tolist() == [[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 3\), got 3"):
        one_hot_tokens(torch.tensor([[0, 3]]), 3)
