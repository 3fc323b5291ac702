"""Backward pass of exact-law ReDGE in Triton for rows too wide to hold: one noise at a time."""

# ruff: noqa: SIM300 (upper case is no constant here)
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from catreparam.kernels.triton.pieces import add_weights, by_lane, join_lanes, read_drawn
from catreparam.kernels.triton.rows import interval, over_classes, piece_at, read, read_logits, read_signed, write


@triton.jit
def sweep_gradient(
    pointers, place, rows, top, scale, kind, weight, at_x, drawn, i,
    EVALUATIONS: tl.constexpr, INTERVALS: tl.constexpr, FROM_ZERO: tl.constexpr, NOISES: tl.constexpr,
    SECOND: tl.constexpr, GIVEN_NOISE: tl.constexpr, GIVEN_X: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """out += the gradient of noise i / NOISES, in two passes an interval and one at either end.

    Numbers of the row: largest exponents and 1 / sums of `upper`, then of every interval's `predicted` and `lower`;
    means of what `upper` and `lower` are multiplied with.
    """
    seed, row, classes = place
    out_ptr = pointers[5]
    given = rows, top, scale, weight, at_x, drawn, i
    tops = ()
    scales = ()
    means = ()
    for step in tl.static_range(2 * INTERVALS + 1):
        most = tl.full([1, CLASSES // 4], float("-inf"), tl.float32)
        total, dot, plain = tl.zeros_like(most), tl.zeros_like(most), tl.zeros_like(most)
        for start in range(0, classes, CLASSES):
            at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
            exponent, probs, vector, _gradient = _sweep_to(
                pointers, at, classes, given, tops, scales, means, step,
                EVALUATIONS, INTERVALS, FROM_ZERO, NOISES, SECOND, GIVEN_NOISE, GIVEN_X, CLASSES,
            )  # fmt: skip
            if step % 2 == 1 or (FROM_ZERO and step > 0 and step == 2 * INTERVALS):
                plain += tl.sum(by_lane(probs * vector, CLASSES), 2)
            if not (FROM_ZERO and step > 0 and step >= 2 * INTERVALS - 1):
                most, total, dot = add_weights(most, total, dot, exponent, vector, 1.0, CLASSES)
        largest, one_over, mean = tl.zeros_like(top), scale, over_classes(plain)
        if not (FROM_ZERO and step > 0 and step >= 2 * INTERVALS - 1):  # there every softmax is that of the logits
            largest, one_over, mean, _weights = join_lanes(most, total, dot, 1.0)
            if step % 2 == 1:
                mean = over_classes(plain)
        tops = tops + (largest,)
        scales = scales + (one_over,)
        means = means + (mean,)
    for start in range(0, classes, CLASSES):
        at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
        _exponent, _probs, _vector, gradient = _sweep_to(
            pointers, at, classes, given, tops, scales, means, 2 * INTERVALS + 1,
            EVALUATIONS, INTERVALS, FROM_ZERO, NOISES, SECOND, GIVEN_NOISE, GIVEN_X, CLASSES,
        )  # fmt: skip
        gradient *= 1.0 / NOISES
        if NOISES > 1:
            gradient += tl.where(i > 0, read(out_ptr, at), 0.0)
        write(out_ptr, at, gradient, kind)


@triton.jit
def _sweep_to(
    pointers, at, classes, given, tops, scales, means, STEP: tl.constexpr,
    EVALUATIONS: tl.constexpr, INTERVALS: tl.constexpr, FROM_ZERO: tl.constexpr, NOISES: tl.constexpr,
    SECOND: tl.constexpr, GIVEN_NOISE: tl.constexpr, GIVEN_X: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """What pass STEP sums: exponents, or probabilities that are known, and the vector of the mean; the gradient so far.

    Pass 0 has `upper` at lambda_1; pass 2 b - 1 `predicted`, and the mean over `upper`, of interval b;
    pass 2 b `lower`.
    """
    logits_ptr, upstream_ptr, noise_ptr, x_ptr, plan_ptr, _out_ptr = pointers
    rows, top, scale, weight, at_x, drawn, i = given
    row = at[4]
    last = tl.load(plan_ptr + 8 * (EVALUATIONS - 1))
    logits = read_logits(logits_ptr, at, classes) - top
    vector = read(upstream_ptr, at)
    x = read_drawn(x_ptr, at, drawn, GIVEN_X)
    z = last * x + read_signed(noise_ptr, at, i, (row * 0 + rows) * classes, NOISES, GIVEN_NOISE, CLASSES)
    exponent = logits + last * z
    upper, gradient = logits, logits
    probs = tl.zeros_like(logits)
    if STEP > 0:
        upper = tl.exp(exponent - tops[0]) * scales[0]
        gradient = direct(upper, vector, x, weight, means[0], at_x, SECOND)
        adjoint = last * gradient
    for back in tl.static_range(1, INTERVALS + 1):
        if STEP >= 2 * back - 1:
            start, end, step = interval(plan_ptr, EVALUATIONS, INTERVALS - back)
            vector = 0.5 * step * adjoint
            probs = upper
            if not (FROM_ZERO and back == INTERVALS):
                exponent = logits + start * (z - step * upper)
            if STEP >= 2 * back:
                first = upper * (vector - means[2 * back - 1])
                vector += step * end * first
                if FROM_ZERO and back == INTERVALS:
                    lower = tl.exp(logits) * scale
                else:
                    z -= 0.5 * step * (upper + tl.exp(exponent - tops[2 * back - 1]) * scales[2 * back - 1])
                    exponent = logits + start * z
                    lower = exponent
                    if STEP > 2 * back:
                        lower = tl.exp(exponent - tops[2 * back]) * scales[2 * back]
                probs = lower
                if STEP > 2 * back:
                    second = lower * (vector - means[2 * back])
                    gradient += first + second
                    adjoint += end * first + start * second
                    upper = lower
    return exponent, probs, vector, gradient


@triton.jit
def direct(probs, upstream, x, weight, mean, at_x, SECOND: tl.constexpr):
    """(1 - w/2) J(p) g + (w/2)(x - p) <x - p, g>, with mean = <p, g> and at_x = <x, g>."""
    moved = probs * (upstream - mean)
    if SECOND:
        moved = (1.0 - 0.5 * weight) * moved + (0.5 * weight) * (at_x - mean) * (x - probs)
    return moved
