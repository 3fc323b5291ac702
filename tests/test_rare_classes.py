"""Rare classes come up as often as they should, on every path and backend.

Failure probability of each statistical test, were its seed not fixed: FAILURE_RATE.
"""

import math
import runpy
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats

import catreparam
import catreparam.jax as cj
from catreparam import expectation
from catreparam.categorical import draw_exponential_like, with_fine_tail
from catreparam.estimators.facts import ESTIMATORS, facts_of
from catreparam.jax import categorical as jax_categorical
from catreparam.kernels import dispatch
from catreparam.kernels.compiled import library
from methods import setting_for

HERE = Path(__file__).parent
FAILURE_RATE = 1e-6
PATHS = ["compiled", "torch", "naive"] if library.BUILT else ["torch", "naive"]
EXACT = [name for name in ESTIMATORS if facts_of(name).law == "exact" and not facts_of(name).takes_objective]
INSTRUCTION_SETS = ["generic", "avx2", "avx512"]


def count_others(draw, rows):
    """How often a draw of [rows, K] one-hot rows is not class 0."""
    return int(rows - draw.reshape(-1, draw.shape[-1])[:, 0].sum())


def check_rate(count, draws, probability):
    assert stats.binomtest(count, draws, probability).pvalue > FAILURE_RATE, (count, draws * probability)


@pytest.mark.statistical
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["gumbel_softmax", "straight_through", "exact_redge"])
def test_fifty_thousand_classes_of_1e_13_hardly_ever_win(name, path):
    logits = torch.zeros(1, 50_000)
    logits[0, 0] = 30.0
    generator = torch.Generator().manual_seed(0)
    with dispatch.using(path), torch.no_grad():
        drawn = [getattr(catreparam, name)(logits.expand(50, -1), generator=generator) for _ in range(4)]
    others = sum(count_others(x, 50) for x in drawn)
    check_rate(others, 200, 50_000 * math.exp(-30))


@pytest.mark.statistical
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("num_classes", [2, 3, 40, 200])
def test_the_rarest_classes_share_what_is_left(name, path, num_classes):
    # All but one class share 1e-5, each rare class in a tail that float32 sums or coarse noise would blur.
    logits = torch.full((200_000 if num_classes < 10 else 5_000, num_classes), math.log(1e-5 / (num_classes - 1)))
    logits[:, num_classes // 2] = 0.0
    with dispatch.using(path), torch.no_grad():
        fewest = {"num_noises": 1} if "num_noises" in facts_of(name).hyperparameters else {}
        x = getattr(catreparam, name)(logits, **fewest, generator=torch.Generator().manual_seed(1))
    count = int(len(logits) - x[:, num_classes // 2].sum())
    check_rate(count, len(logits), 1e-5 / (1 + 1e-5))


needs_kernels = pytest.mark.skipif(not library.BUILT, reason="the compiled kernels were not built (no C++ compiler)")


@needs_kernels
@pytest.mark.statistical
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
@pytest.mark.parametrize("rule", ["straight_through", "gumbel_softmax"])
@pytest.mark.parametrize(("classes", "rare"), [(2, 3e-8), (3, 3e-8), (100, 2e-10), (200, 3e-7)])
def test_compiled_kernels_draw_classes_below_the_step_of_one_word(rule, classes, rare, instructions):
    """In many rows: at 2 to the -24, -31 and -32 the old draws were wrong by half and more, or never happened."""
    if not library.choose_instruction_set(instructions):
        pytest.skip(f"this processor has no {instructions}")
    rows = {2: 1 << 20, 3: 1 << 20, 100: 1 << 15, 200: 1 << 13}[classes]
    logits = torch.full((1, classes), math.log(rare))
    logits[0, 0] = 0.0
    share = (classes - 1) * rare
    try:
        drawn = [library.forward(setting_for(rule), logits.expand(rows, classes).contiguous(), s)[0] for s in range(6)]
        others = sum(count_others(x, rows) for x in drawn)
    finally:
        library.choose_instruction_set("")
    check_rate(others, 6 * rows, share / (1 + share))


@needs_kernels
@pytest.mark.statistical
def test_two_classes_share_less_than_a_step_of_their_uniform():
    logits = torch.tensor([[0.0, math.log(1e-12)], [math.log(1e-12), 0.0]]).repeat(1 << 20, 1)
    likely = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(1 << 20, 1).bool()
    setting = setting_for("straight_through")
    others = sum(int((library.forward(setting, logits, seed)[0] != likely).sum()) // 2 for seed in range(80))
    assert others <= 1  # 1.7e-4 expected: two or more once in 7e7 times; in steps of 2^-24 it would be ten


@needs_kernels
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_chosen_words_give_exact_gumbels_and_draws(instructions, tmp_path):
    if not library.choose_instruction_set(instructions):
        pytest.skip(f"this processor has no {instructions}")
    library.choose_instruction_set("")
    build = runpy.run_path(str(HERE.parent / "hatch_build.py"))
    compiler = build["find_compiler"]()
    if not compiler:
        pytest.skip("no C++ compiler")
    flags = [flag for flag in build["FLAGS"] if flag != "-fPIC"] + build["INSTRUCTION_SETS"][instructions]
    program = tmp_path / "rare_words"
    subprocess.run([*compiler, *flags, str(HERE / "rare_words.cpp"), "-o", str(program)], check=True)
    *lines, last = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    for line in lines:
        word, more, found = line.split()
        rare = int(word) >= 2**32 - 2**18
        tail, pair = 2**32 - 1 - int(word) + (int(more) + 0.5) / 2**32, 2**32 - 2 * (int(word) // 2) - 1
        below_one = tail if rare else pair  # without a second word, two neighbours are worth the same
        assert float(found) == pytest.approx(-math.log1p(-below_one / 2**32), rel=1e-3 if not rare else 1e-6), line
    # The first: all ordinary, 1 unit in 2^31 is cut off; class 1 and 3 by 1e-12 and 3e-12, class 2 never.
    _, _, one, none, three, ordinary = last.split()
    assert [int(none), int(ordinary)] == [0, 0]
    assert int(one) > 0
    assert int(three) == pytest.approx(3 * int(one), rel=0.05)


@needs_kernels
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
@pytest.mark.parametrize("classes", [2, 5, 300])
def test_compiled_gumbels_have_no_two_equal_tails(classes, instructions):
    """The upper tail of 4e6 Gumbels: an exponential of exactly 0 would be a Gumbel of 87, a coarse one a tie."""
    if not library.choose_instruction_set(instructions):
        pytest.skip(f"this processor has no {instructions}")
    noise = library.replay(setting_for("gumbel_softmax"), (4_000_000 // classes, classes), 7)
    library.choose_instruction_set("")
    values = noise.flatten() if classes > 2 else (noise[:, 1] - noise[:, 0]).abs()
    tail = values[values > 11]
    assert float(tail.max()) < 40
    assert len(tail.unique()) >= len(tail) - 1
    scale = 1 - math.exp(-math.exp(-11)) if classes > 2 else 2 / (1 + math.exp(11))
    check_rate(len(tail), len(values), scale)


@pytest.mark.statistical
def test_the_tail_of_torchs_exponentials_is_uniform_to_its_last_digits():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.empty(1 << 21).exponential_(generator=generator)
    coarse[::3] = (coarse[::3] * 2**17).frac() * 2.0**-14  # a third of them in the tail, on a lattice, zeros among them
    coarse[:300:3] = 0.0
    fine = with_fine_tail(coarse.clone())
    tail = coarse < 2.0**-14
    assert torch.equal(fine[~tail], coarse[~tail])
    assert bool((fine > 0).all())
    assert stats.kstest((fine[tail] * 2**14).double().numpy(), "uniform").pvalue > FAILURE_RATE
    assert len(fine[tail][:2000].unique()) == 2000
    assert torch.equal(torch.vmap(with_fine_tail, randomness="different")(coarse[None])[0], fine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchs_exponentials_are_positive_and_repeat(dtype):
    rows = torch.empty(100_000, dtype=dtype)
    first, again = (draw_exponential_like(rows, torch.Generator().manual_seed(3)) for _ in range(2))
    assert bool((first > 0).all())
    assert torch.equal(first, again)


@pytest.mark.statistical
def test_jaxs_exponentials_have_a_tail():
    noise = np.asarray(jax_categorical.draw_exponential_like(jnp.zeros((1 << 20,)), jax.random.key(0)))
    tail = noise[noise < 2.0**-12]
    check_rate(len(tail), len(noise), -math.expm1(-(2.0**-12)))
    assert len(np.unique(tail)) == len(tail)
    assert tail.min() > 0
    assert stats.kstest(tail * 2**12, "uniform").pvalue > FAILURE_RATE


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["straight_through", "exact_redge", "gumbel_softmax"])
def test_jax_hardly_ever_draws_classes_of_1e_13(name):
    logits = jnp.zeros((80, 20_000)).at[:, 0].set(30.0)
    drawn = getattr(cj, name)(logits, key=jax.random.key(0))
    check_rate(int((drawn[:, 0] == 0).sum()), 80, 20_000 * math.exp(-30))


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "num_classes"), [("arsm", 2), ("reinmax_rloo", 3), ("rloo", 2), ("rebar", 3)])
def test_estimators_with_an_objective_draw_rare_classes_as_often(name, num_classes):
    logits = torch.full((200_000, num_classes), math.log(1e-5))
    logits[:, -1] = 0.0
    seen = []

    def objective(x):
        if bool(((x == 0) | (x == 1)).all()):
            seen.append(int(len(x) - x[:, -1].sum()))
        return x[..., 0]

    with torch.no_grad():
        expectation(objective, logits, estimator=name, num_samples=2, generator=torch.Generator().manual_seed(0))
    share = 1e-5 * (num_classes - 1)
    # ARSM's and stratified draws of a row depend on each other: at most 4 of them, counted as one of the fourfold rate
    assert sum(seen) < stats.binom.isf(FAILURE_RATE, 200_000, 4 * share / (1 + share))
