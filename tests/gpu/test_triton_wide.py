"""Rows too wide for a program to hold, along which it goes in pieces: parity, noise and law as for those it holds.

Without a GPU the pieces are made small, so that rows of a few dozen classes have several.
"""

import pytest
import torch

from catreparam.kernels.autograd import replayed
from catreparam.kernels.triton import autograd as triton_autograd
from catreparam.kernels.triton import launch as triton_launch
from gpu.test_triton import DEVICE, ON_GPU, SETTINGS, label, on_device, pytestmark, seed_of
from methods import COMPILED, setting_for
from test_kernels_compiled import expected_sample, problem, twin

__all__ = ["pytestmark"]
TWO = (0.0, 1.0)
WIDTHS = [4097, 16385, 40000] if ON_GPU else [33, 63, 90]
FULL = [(4097, 0), (2050, 10), (16385, 5), (40000, 3)]  # classes, number of a setting


@pytest.fixture(autouse=True)
def _small_pieces(request, monkeypatch):
    if not ON_GPU and request.node.originalname != "test_so_it_is_with_pieces_of_the_size_that_is_used":
        monkeypatch.setattr(triton_launch, "HELD", 8)
        monkeypatch.setattr(triton_launch, "PIECE", 32)
    triton_launch._tiles.cache_clear()
    yield
    triton_launch._tiles.cache_clear()


def check_parity(setting, classes, rows, dtype=torch.float32):
    tolerance = 2e-4 if setting.method.name == "redge_cov" else 1e-5
    logits, noise, x, upstream = problem(setting, classes, rows=rows, dtype=dtype)
    logits[0, 1:] = -torch.inf  # one class is left
    x[0] = torch.eye(classes)[0]
    value, gradient = twin(setting, logits, noise, x, upstream)
    wanted = expected_sample(setting, logits, noise, x, value)
    impossible = logits == -torch.inf
    logits, noise, x, upstream = on_device(logits, noise, x, upstream)
    sample = triton_launch.forward(setting, logits, seed_of(0), noise, x)
    ours = triton_launch.backward(setting, logits, upstream, seed_of(0), noise, x)
    assert sample.dtype == ours.dtype == dtype
    rounding = max(tolerance, 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps)
    torch.testing.assert_close(sample.cpu().double(), wanted, atol=tolerance, rtol=rounding)
    torch.testing.assert_close(ours.cpu().double(), gradient, atol=tolerance, rtol=rounding)
    assert (ours.cpu()[impossible] == 0).all()


@pytest.mark.parametrize("number", range(len(SETTINGS)), ids=lambda number: label(SETTINGS[number]))
def test_value_and_gradient_equal_the_naive_twin(number):
    dtype = (torch.float32, torch.bfloat16, torch.float32, torch.float16)[number % 4]
    for classes in WIDTHS if ON_GPU else [WIDTHS[number % 3]]:
        check_parity(SETTINGS[number], classes, 2, dtype)


@pytest.mark.parametrize(("classes", "number"), FULL)
def test_so_it_is_with_pieces_of_the_size_that_is_used(classes, number):
    check_parity(SETTINGS[number], classes, 2)


@pytest.mark.parametrize("setting", [SETTINGS[i] for i in (1, 3, 9, 13, 17)], ids=label)
def test_noise_and_sample_from_the_seed_are_those_replayed(setting):
    logits, upstream = on_device(*problem(setting, WIDTHS[1], rows=2)[::3])
    noise, x = replayed(triton_autograd.PASSES, setting, logits, seed_of(11))
    sample = triton_launch.forward(setting, logits, seed_of(11))
    ours = triton_launch.backward(setting, logits, upstream, seed_of(11))
    torch.testing.assert_close(sample, triton_launch.forward(setting, logits, seed_of(11), noise, x), atol=1e-5, rtol=0)
    if noise is None:
        noise = torch.zeros_like(logits)
    gradient = twin(setting, logits, noise, torch.zeros_like(logits) if x is None else x, upstream)[1]
    tolerance = 1e-3 if setting.method.name == "redge_cov" else 2e-5
    torch.testing.assert_close(ours.double(), gradient, atol=tolerance, rtol=tolerance)
    if setting.hard:
        assert (sample.sum(-1) == 1).all()


def test_the_noise_is_that_of_rows_that_are_held(monkeypatch):
    like = torch.empty(3, WIDTHS[1], device=DEVICE)
    for method in ("redge", "gumbel_softmax"):
        noise = triton_launch.replay(setting_for(method), like, seed_of(3))
        with monkeypatch.context() as patch:
            patch.setattr(triton_launch, "HELD", 1 << 20)
            triton_launch._tiles.cache_clear()
            assert torch.equal(noise, triton_launch.replay(setting_for(method), like, seed_of(3)))
        triton_launch._tiles.cache_clear()


def test_rows_with_one_allowed_class_and_rows_that_are_not_valid():
    classes = WIDTHS[2]
    logits = torch.full((4, classes), -torch.inf)
    allowed = torch.arange(4) * 17 % classes
    logits[torch.arange(4), allowed] = 1e30
    wrong = logits[:4].clone()
    wrong[0] = -torch.inf
    wrong[1, 5], wrong[2, 7] = torch.nan, torch.inf
    for method in COMPILED if ON_GPU else ("gumbel_softmax", "redge_cov", "exact_redge"):
        setting = setting_for(method, TWO)
        assert torch.equal(triton_launch.forward(setting, logits.to(DEVICE), seed_of(5)).argmax(-1).cpu(), allowed)
        flags = torch.zeros(4, dtype=torch.int32, device=DEVICE)
        sample = triton_launch.forward(setting, wrong.to(DEVICE), seed_of(5), flags=flags)
        assert flags.tolist() == [1, 0, 1, 1]
        gradient = triton_launch.backward(setting, wrong.to(DEVICE), wrong.to(DEVICE).clamp(-1, 1), seed_of(5))
        for rows in (sample, gradient):
            assert rows[:3].isnan().all()
            assert rows[3].isfinite().all()


def test_equal_logits_of_any_size_are_told_apart_by_noise():
    logits = torch.full((20, 33), 1e30, device=DEVICE)
    for method in ("gumbel_softmax", "redge", "straight_through"):
        drawn = triton_launch.forward(setting_for(method, TWO), logits, seed_of(1)).argmax(-1)
        assert len(drawn.unique()) > 5


def hold_many_rows(monkeypatch):
    monkeypatch.setattr(triton_launch, "HELD", 64)
    if not ON_GPU:
        monkeypatch.setattr(triton_launch, "TILES", ((64, 1 << 17, 1),))  # the interpreter works on all at once
    triton_launch._tiles.cache_clear()


@pytest.mark.statistical
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("method", ["straight_through", "gumbel_softmax"])
def test_the_hard_sample_follows_the_probabilities(method, held, monkeypatch):
    """Were the seed not fixed, each would fail at a rate of 1e-6."""
    stats = pytest.importorskip("scipy.stats")
    if held:
        hold_many_rows(monkeypatch)
    draws = 20_000 if held or ON_GPU else 150  # the interpreter takes one row after the other
    probs = torch.rand(37, generator=torch.Generator().manual_seed(0)) ** 4
    probs[5], probs[6] = 0.0, 1e-6
    probs /= probs.sum()
    rows = probs.log().expand(draws, -1).contiguous().to(DEVICE)
    counts = triton_launch.forward(setting_for(method), rows, seed_of(9)).sum(0).cpu()
    assert counts[5] == 0
    common = probs * draws > 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([probs[common], probs[~common].sum()[None]]) * draws
    assert stats.chisquare(observed.numpy(), expected.double().numpy(), sum_check=False).pvalue > 1e-6


@pytest.mark.statistical
@pytest.mark.parametrize(("place", "held"), [(0, True), (1, True), (2, True), (3, True), (2, False)])  # of four
def test_rare_classes_are_drawn_as_often_as_they_should_be(place, held, monkeypatch):
    """Were the seed not fixed, each would fail at a rate of 1e-6."""
    stats = pytest.importorskip("scipy.stats")
    if held:
        hold_many_rows(monkeypatch)
    draws = 20_000 if held or ON_GPU else 150
    logits = torch.full((1, 37), -9.0 if held or ON_GPU else -5.0)
    logits[0, 8 + place] = 0.0
    rare = 1.0 - logits.double().softmax(-1)[0, 8 + place].item()
    x = triton_launch.forward(setting_for("straight_through"), logits.repeat(draws, 1).to(DEVICE), seed_of(2))
    assert stats.binomtest(int((x[:, 8 + place] == 0).sum()), draws, rare).pvalue > 1e-6
