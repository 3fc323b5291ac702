"""Rows in pieces: what a program needs that goes along a row again and again instead of holding it.

A pass reads every piece [1, CLASSES] and keeps one number for each lane, which has four columns of every piece: the
largest exponent, the sum of weights relative to it, sums of products. At the end of a pass the lanes become numbers of
the row. With them every probability is a function of its own logit and noise, and is made again instead of kept.
"""

# ruff: noqa: SIM108 (a branch on a compile-time constant is clearer as a statement)
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from catreparam.kernels.triton.noise import BETWEEN, WITHIN, draw, exponential, index_of_largest, words
from catreparam.kernels.triton.rows import (
    carry,
    exponent_of,
    finite,
    kinds,
    matched_start,
    piece_at,
    read,
    read_logits,
    read_normal,
)


@triton.jit
def by_lane(tile, CLASSES: tl.constexpr):
    """[1, LANES, 4]."""
    return tl.reshape(tile, [1, CLASSES // 4, 4])


@triton.jit
def by_class(lanes, CLASSES: tl.constexpr):
    """Numbers of lanes [1, LANES] for each of their columns."""
    return tl.reshape(tl.broadcast_to(tl.expand_dims(lanes, 2), [1, CLASSES // 4, 4]), [1, CLASSES])


@triton.jit
def add_weights(top, total, dot, exponent, vector, temperature, CLASSES: tl.constexpr):
    """The lanes' largest exponent, sum of weights exp((exponent - top) / temperature), and sum of weight x vector."""
    here = tl.maximum(top, tl.max(by_lane(exponent, CLASSES), 2))
    base = finite(here)
    earlier = tl.exp((top - base) / temperature)
    weight = tl.exp((exponent - by_class(base, CLASSES)) / temperature)
    total = total * earlier + tl.sum(by_lane(weight, CLASSES), 2)
    return here, total, dot * earlier + tl.sum(by_lane(weight * vector, CLASSES), 2)


@triton.jit
def join_lanes(top, total, dot, temperature):
    """Of the row, [1, 1]: largest exponent, one over the sum of weights, mean of the vector; and the lanes' weights."""
    most = finite(tl.max(top, 1, keep_dims=True))
    factor = tl.exp((top - most) / temperature)
    weights = total * factor
    scale = 1.0 / tl.sum(weights, 1, keep_dims=True)
    return most, scale, scale * tl.sum(dot * factor, 1, keep_dims=True), weights


@triton.jit
def read_row(logits_ptr, vector_ptr, seed, row, classes, temperature, WITH_VECTOR: tl.constexpr, CLASSES: tl.constexpr):
    """The first pass: largest logit, 1 / sum of weights, mean of the vector, lanes' weights, kind, for softmax."""
    top = tl.full([1, CLASSES // 4], float("-inf"), tl.float32)
    total, dot = tl.zeros_like(top), tl.zeros_like(top)
    kind = tl.zeros([1, CLASSES // 4], tl.int32)
    for start in range(0, classes, CLASSES):
        at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
        logits = read_logits(logits_ptr, at, classes)
        if WITH_VECTOR:
            vector = read(vector_ptr, at)
        else:
            vector = tl.zeros_like(logits)
        kind = tl.maximum(kind, tl.max(by_lane(kinds(logits), CLASSES), 2))
        top, total, dot = add_weights(top, total, dot, logits, vector, temperature, CLASSES)
    most, scale, mean, weights = join_lanes(top, total, dot, temperature)
    return most, scale, mean, weights, tl.max(kind, 1, keep_dims=True)


@triton.jit
def chain_start(source, at, MATCHED: tl.constexpr, GIVEN: tl.constexpr, CLASSES: tl.constexpr):
    """Of a piece: logits, z at the noise end, 1 / variances. source: (logits, noise, classes, top, 1 / sum)."""
    logits_ptr, noise_ptr, classes, top, scale = source
    logits = read_logits(logits_ptr, at, classes) - top
    z = read_normal(noise_ptr, at, 0, 0, GIVEN, CLASSES)
    inverse = z
    if MATCHED:
        z, inverse = matched_start(tl.exp(logits) * scale, z)
    return logits, z, inverse


@triton.jit
def chain_to(logits, z, inverse, plan_ptr, tops, scales, LAST: tl.constexpr, MATCHED: tl.constexpr):
    """The exponents of evaluation LAST and its shift; the softmaxes and shifts before it, from their rows' numbers."""
    probs, before = tl.zeros_like(z), tl.zeros_like(z)
    chain = ()
    shifts = ()
    for j in tl.static_range(LAST):
        z, peeked = carry(z, probs, before, plan_ptr + 8 * j)
        before = probs
        exponent, shift = exponent_of(logits, peeked, inverse, tl.load(plan_ptr + 8 * j), MATCHED)
        probs = tl.exp(exponent - tops[j]) * scales[j]
        chain = chain + (probs,)
        shifts = shifts + (shift,)
    z, peeked = carry(z, probs, before, plan_ptr + 8 * LAST)
    exponent, shift = exponent_of(logits, peeked, inverse, tl.load(plan_ptr + 8 * LAST), MATCHED)
    return exponent, shift, chain, shifts


@triton.jit
def chain_pass(
    source, vector_ptr, seed, row, plan_ptr, tops, scales,
    J: tl.constexpr, WITH_VECTOR: tl.constexpr, MATCHED: tl.constexpr, GIVEN: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """The numbers of evaluation J: largest exponent, 1 / sum, mean of the vector, and the lanes' weights."""
    classes = source[2]
    top = tl.full([1, CLASSES // 4], float("-inf"), tl.float32)
    total, dot = tl.zeros_like(top), tl.zeros_like(top)
    for start in range(0, classes, CLASSES):
        at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
        logits, z, inverse = chain_start(source, at, MATCHED, GIVEN, CLASSES)
        exponent = chain_to(logits, z, inverse, plan_ptr, tops, scales, J, MATCHED)[0]
        if WITH_VECTOR:
            vector = read(vector_ptr, at)
        else:
            vector = tl.zeros_like(exponent)
        top, total, dot = add_weights(top, total, dot, exponent, vector, 1.0, CLASSES)
    return join_lanes(top, total, dot, 1.0)


@triton.jit
def run_chain_passes(
    source, vector_ptr, seed, row, plan_ptr, weights,
    EVALUATIONS: tl.constexpr, LAST: tl.constexpr, FROM_ZERO: tl.constexpr, WITH_VECTOR: tl.constexpr,
    MATCHED: tl.constexpr, GIVEN: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Numbers of the evaluations before LAST, as two tuples; mean of the vector and lanes' weights of the last of them.

    At lambda = 0 the softmax is that of the logits alone, of which `weights` are the lanes'.
    """
    tops = ()
    scales = ()
    mean = tl.zeros([1, 1], tl.float32)
    for j in tl.static_range(LAST):
        if FROM_ZERO and j == 0 and EVALUATIONS > 1:
            top = source[3]
            scale = source[4]
            tops = tops + (tl.zeros_like(top),)
            scales = scales + (scale,)
        else:
            top, scale, mean, weights = chain_pass(
                source, vector_ptr, seed, row, plan_ptr, tops, scales,
                j, WITH_VECTOR and j == EVALUATIONS - 1, MATCHED, GIVEN, CLASSES,
            )  # fmt: skip
            tops = tops + (top,)
            scales = scales + (scale,)
    return tops, scales, mean, weights


@triton.jit
def lane_at(weights, seed, row, classes, CLASSES: tl.constexpr, PIECES: tl.constexpr):
    """Where all columns of a lane lie that is drawn in proportion to weights [1, LANES]: first half of a hard draw."""
    clock, more, _, _ = words(seed, tl.arange(0, CLASSES // 4)[None, :], row, BETWEEN)
    lane = index_of_largest(weights / exponential(clock, more))
    group = tl.arange(0, PIECES)[None, :] * (CLASSES // 4) + lane
    place = tl.arange(0, 4 * PIECES)[None, :]
    column = place // 4 * CLASSES + 4 * lane + place % 4
    return row * classes + column, column < classes, column, group, row, seed


@triton.jit
def draw_within(exponent, at, PIECES: tl.constexpr):
    """[1, 1]: the column drawn from those of a lane with these exponents: the second half."""
    column = at[2]
    row = at[4]
    seed = at[5]
    weights = tl.exp(exponent - finite(tl.max(exponent, 1, keep_dims=True)))
    place = draw(weights, seed, tl.arange(0, PIECES)[None, :], row, WITHIN, 4 * PIECES)
    return tl.sum(tl.where(tl.arange(0, 4 * PIECES)[None, :] == place, column, 0), 1, keep_dims=True)


@triton.jit
def draw_from_logits(logits_ptr, weights, seed, row, classes, CLASSES: tl.constexpr, PIECES: tl.constexpr):
    """[1, 1]: the column drawn from softmax(logits), of which the lanes have these weights."""
    at = lane_at(weights, seed, row, classes, CLASSES, PIECES)
    return draw_within(read_logits(logits_ptr, at, classes), at, PIECES)


@triton.jit
def draw_from_chain(
    source, weights, seed, row, plan_ptr, tops, scales,
    LAST: tl.constexpr, MATCHED: tl.constexpr, GIVEN: tl.constexpr, CLASSES: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """[1, 1]: the column drawn from evaluation LAST, of which the lanes have these weights."""
    classes = source[2]
    at = lane_at(weights, seed, row, classes, CLASSES, PIECES)
    logits, z, inverse = chain_start(source, at, MATCHED, GIVEN, 4 * PIECES)
    exponent = chain_to(logits, z, inverse, plan_ptr, tops, scales, LAST, MATCHED)[0]
    return draw_within(exponent, at, PIECES)


@triton.jit
def read_drawn(x_ptr, at, drawn, GIVEN: tl.constexpr):
    """The hard sample's piece: as given, or one at the column drawn."""
    column = at[2]
    if GIVEN:
        x = read(x_ptr, at)
    else:
        x = (column == drawn).to(tl.float32)
    return x
