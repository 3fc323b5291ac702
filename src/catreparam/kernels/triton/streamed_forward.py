"""Forward pass in Triton for rows too wide to hold: one row a program, in pieces, again for every softmax."""

# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from catreparam.kernels.triton.pieces import (
    add_weights,
    by_class,
    by_lane,
    chain_start,
    chain_to,
    draw_from_chain,
    draw_from_logits,
    join_lanes,
    read_drawn,
    read_row,
    run_chain_passes,
)
from catreparam.kernels.triton.rows import (
    piece_at,
    read,
    read_gumbel,
    read_logits,
    read_seed,
    read_signed,
    write,
)


@triton.jit(do_not_specialize=["seed_ptr"])
def streamed_forward_kernel(
    logits_ptr, noise_ptr, x_ptr, seed_ptr, plan_ptr, out_ptr, flag_ptr, rows, classes, temperature,
    RULE: tl.constexpr, EVALUATIONS: tl.constexpr, FROM_ZERO: tl.constexpr, NOISES: tl.constexpr, HARD: tl.constexpr,
    GIVEN_NOISE: tl.constexpr, GIVEN_X: tl.constexpr, CLASSES: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """As `forward_kernel`, for rows of at most PIECES pieces of CLASSES columns. Noises add up in out: float32."""
    row = tl.program_id(0).to(tl.int64) + tl.zeros([1, 1], tl.int64)
    seed = read_seed(seed_ptr)
    top, scale, _, weights, kind = read_row(logits_ptr, logits_ptr, seed, row, classes, 1.0, False, CLASSES)
    tl.store(flag_ptr + kind, 1, mask=kind != 1)  # whoever writes writes the same
    if RULE == "GUMBEL":
        _write_gumbel(
            logits_ptr, noise_ptr, out_ptr, seed, row, classes, top, kind, temperature, HARD, GIVEN_NOISE, CLASSES
        )
    elif RULE == "CHAIN" or RULE == "MATCHED":
        source = logits_ptr, noise_ptr, classes, top, scale
        tops, scales, _, weights = run_chain_passes(
            source, logits_ptr, seed, row, plan_ptr, weights,
            EVALUATIONS, EVALUATIONS, FROM_ZERO, False, RULE == "MATCHED", GIVEN_NOISE, CLASSES,
        )  # fmt: skip
        if HARD:
            drawn = draw_from_chain(
                source, weights, seed, row, plan_ptr, tops, scales,
                EVALUATIONS - 1, RULE == "MATCHED", GIVEN_NOISE, CLASSES, PIECES,
            )  # fmt: skip
            _write_drawn(x_ptr, out_ptr, seed, row, classes, drawn, kind, GIVEN_X, CLASSES)
        else:
            for start in range(0, classes, CLASSES):
                at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
                logits, z, inverse = chain_start(source, at, RULE == "MATCHED", GIVEN_NOISE, CLASSES)
                exponent = chain_to(logits, z, inverse, plan_ptr, tops, scales, EVALUATIONS - 1, RULE == "MATCHED")[0]
                write(out_ptr, at, tl.exp(exponent - tops[EVALUATIONS - 1]) * scales[EVALUATIONS - 1], kind)
    else:
        tl.static_assert(RULE == "DIRECT" or RULE == "SWEEP", "no forward kernel for this rule")
        drawn = draw_from_logits(logits_ptr, weights, seed, row, classes, CLASSES, PIECES)
        if RULE == "SWEEP" and not HARD:
            last = tl.load(plan_ptr + 8 * (EVALUATIONS - 1))
            for i in range(NOISES):
                _add_soft(
                    logits_ptr, noise_ptr, x_ptr, out_ptr, seed, row, rows, classes, top, kind, last, drawn, i,
                    NOISES, GIVEN_NOISE, GIVEN_X, CLASSES,
                )  # fmt: skip
        else:
            _write_drawn(x_ptr, out_ptr, seed, row, classes, drawn, kind, GIVEN_X, CLASSES)


@triton.jit
def _write_drawn(x_ptr, out_ptr, seed, row, classes, drawn, kind, GIVEN_X: tl.constexpr, CLASSES: tl.constexpr):
    for start in range(0, classes, CLASSES):
        at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
        write(out_ptr, at, read_drawn(x_ptr, at, drawn, GIVEN_X), kind)


@triton.jit
def _write_gumbel(
    logits_ptr, noise_ptr, out_ptr, seed, row, classes, top, kind, temperature,
    HARD: tl.constexpr, GIVEN_NOISE: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """softmax((logits + Gumbel noise) / temperature), or one-hot rows at the first largest."""
    most = tl.full([1, CLASSES // 4], float("-inf"), tl.float32)
    total, dot = tl.zeros_like(most), tl.zeros_like(most)
    best = tl.zeros([1, CLASSES // 4], tl.int32) + classes
    for start in range(0, classes, CLASSES):
        at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
        perturbed = read_logits(logits_ptr, at, classes) - top + read_gumbel(noise_ptr, at, GIVEN_NOISE, CLASSES)
        if HARD:
            column = at[2]
            here = tl.max(by_lane(perturbed, CLASSES), 2)
            first = tl.where(perturbed == by_class(here, CLASSES), column, classes)
            best = tl.where(here > most, tl.min(by_lane(first, CLASSES), 2), best)
            most = tl.maximum(most, here)
        else:
            most, total, dot = add_weights(most, total, dot, perturbed, tl.zeros_like(perturbed), temperature, CLASSES)
    if HARD:
        winner = tl.max(most, 1, keep_dims=True)
        drawn = tl.min(tl.where(most == winner, best, classes), 1, keep_dims=True)
        _write_drawn(out_ptr, out_ptr, seed, row, classes, drawn, kind, False, CLASSES)
    else:
        largest, scale, _mean, _weights = join_lanes(most, total, dot, temperature)
        for start in range(0, classes, CLASSES):
            at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
            perturbed = read_logits(logits_ptr, at, classes) - top + read_gumbel(noise_ptr, at, GIVEN_NOISE, CLASSES)
            write(out_ptr, at, tl.exp((perturbed - largest) / temperature) * scale, kind)


@triton.jit
def _soft_exponent(
    logits_ptr, noise_ptr, x_ptr, at, rows, classes, top, last, drawn, i,
    NOISES: tl.constexpr, GIVEN_NOISE: tl.constexpr, GIVEN_X: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """logits + last z, z = last x + noise i."""
    row = at[4]
    noise = read_signed(noise_ptr, at, i, (row * 0 + rows) * classes, NOISES, GIVEN_NOISE, CLASSES)
    return read_logits(logits_ptr, at, classes) - top + last * (last * read_drawn(x_ptr, at, drawn, GIVEN_X) + noise)


@triton.jit
def _add_soft(
    logits_ptr, noise_ptr, x_ptr, out_ptr, seed, row, rows, classes, top, kind, last, drawn, i,
    NOISES: tl.constexpr, GIVEN_NOISE: tl.constexpr, GIVEN_X: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """out += softmax(logits + last z) / NOISES."""
    most = tl.full([1, CLASSES // 4], float("-inf"), tl.float32)
    total, dot = tl.zeros_like(most), tl.zeros_like(most)
    for start in range(0, classes, CLASSES):
        at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
        exponent = _soft_exponent(
            logits_ptr, noise_ptr, x_ptr, at, rows, classes, top, last, drawn, i, NOISES, GIVEN_NOISE, GIVEN_X, CLASSES
        )
        most, total, dot = add_weights(most, total, dot, exponent, tl.zeros_like(exponent), 1.0, CLASSES)
    largest, scale, _mean, _weights = join_lanes(most, total, dot, 1.0)
    for start in range(0, classes, CLASSES):
        at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
        exponent = _soft_exponent(
            logits_ptr, noise_ptr, x_ptr, at, rows, classes, top, last, drawn, i, NOISES, GIVEN_NOISE, GIVEN_X, CLASSES
        )
        soft = tl.exp(exponent - largest) * (scale * (1.0 / NOISES))
        if NOISES > 1:
            soft += tl.where(i > 0, read(out_ptr, at), 0.0)
        write(out_ptr, at, soft, kind)
