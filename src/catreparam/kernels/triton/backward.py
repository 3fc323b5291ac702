"""Backward pass in Triton: noise, sample and chain are made again from (logits, seed), then the adjoint is swept."""

# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from catreparam.kernels.triton.noise import BETWEEN
from catreparam.kernels.triton.rows import (
    covariance,
    interval,
    matched_start,
    over_classes,
    read,
    read_gumbel,
    read_normal,
    read_rows,
    read_sample,
    read_signed,
    run_chain,
    softmax,
    softmax_at,
    tile_at,
    write,
)


@triton.jit(do_not_specialize=["seed_ptr"])
def backward_kernel(
    logits_ptr, upstream_ptr, noise_ptr, x_ptr, seed_ptr, plan_ptr, out_ptr, rows, classes, temperature, weight,
    RULE: tl.constexpr, TEMPERED: tl.constexpr, EVALUATIONS: tl.constexpr, INTERVALS: tl.constexpr,
    FROM_ZERO: tl.constexpr, NOISES: tl.constexpr, SECOND: tl.constexpr,
    GIVEN_NOISE: tl.constexpr, GIVEN_X: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """out [rows, classes] = the gradient with respect to logits, NaN in rows that are not valid.

    RULE: name of a `Rule`. SECOND: weight is not 0. seed_ptr: a number, or its place on the device.
    """
    at = tile_at(seed_ptr, rows, classes, ROWS, CLASSES)
    logits, kind = read_rows(logits_ptr, at, classes)
    upstream = read(upstream_ptr, at)
    if RULE == "GUMBEL":
        perturbed = logits + read_gumbel(noise_ptr, at, GIVEN_NOISE, CLASSES)
        gradient = covariance(softmax_at(perturbed, temperature), upstream) / temperature
    elif RULE == "MATCHED":
        noise = read_normal(noise_ptr, at, 0, 0, GIVEN_NOISE, CLASSES)
        gradient = _matched_gradient(logits, upstream, noise, plan_ptr, EVALUATIONS)
    elif RULE == "CHAIN":
        noise = read_normal(noise_ptr, at, 0, 0, GIVEN_NOISE, CLASSES)
        chain, shifts = run_chain(logits, noise, noise, plan_ptr, EVALUATIONS, False)
        soft = chain[EVALUATIONS - 1]
        direct = covariance(soft, upstream)
        adjoint = tl.load(plan_ptr + 8 * (EVALUATIONS - 1)) * direct
        if SECOND:
            x = read_sample(x_ptr, at, soft, GIVEN_X, CLASSES, BETWEEN)
            direct = _direct(soft, upstream, x, weight, SECOND)
        gradient, _, _ = _adjoint_chain(direct, adjoint, noise, chain, shifts, plan_ptr, EVALUATIONS, False)
    elif RULE == "SWEEP":
        probs = softmax(logits)
        x = read_sample(x_ptr, at, probs, GIVEN_X, CLASSES, BETWEEN)
        gradient = _exact_gradient(
            logits, upstream, probs, x, plan_ptr, weight, noise_ptr, at, rows * classes,
            EVALUATIONS, INTERVALS, FROM_ZERO, NOISES, SECOND, GIVEN_NOISE, CLASSES,
        )  # fmt: skip
    else:
        tl.static_assert(RULE == "DIRECT", "no backward kernel for this rule")
        probs = softmax(logits)
        x = probs
        if SECOND:
            x = read_sample(x_ptr, at, probs, GIVEN_X, CLASSES, BETWEEN)
        if SECOND and TEMPERED:  # ReinMax at a temperature: 2 J(m) g - J(p) g / 2
            middle = 0.5 * (softmax_at(logits, temperature) + x)
            gradient = 2.0 * covariance(middle, upstream) - 0.5 * covariance(probs, upstream)
        else:
            gradient = _direct(probs, upstream, x, weight, SECOND)
    write(out_ptr, at, gradient, kind)


@triton.jit
def _direct(probs, upstream, x, weight, SECOND: tl.constexpr):
    """(1 - w/2) J(p) g + (w/2)(x - p) <x - p, g>."""
    mean = over_classes(probs * upstream)
    centred = probs * (upstream - mean)
    if SECOND:
        centred = (1.0 - 0.5 * weight) * centred + (0.5 * weight) * (over_classes(x * upstream) - mean) * (x - probs)
    return centred


@triton.jit
def _adjoint_chain(
    gradient, adjoint, inverse, chain, shifts, plan_ptr, EVALUATIONS: tl.constexpr, MATCHED: tl.constexpr
):
    """The gradient, what is left of it for z at the noise end, and the sum of v shift (for variances)."""
    kept, moved = tl.zeros_like(adjoint), tl.zeros_like(adjoint)
    for back in tl.static_range(1, EVALUATIONS):
        at = plan_ptr + 8 * (EVALUATIONS - 1 - back)
        v = covariance(chain[EVALUATIONS - 1 - back], tl.load(at + 4) * adjoint + tl.load(at + 5) * kept)
        gradient += v
        step = tl.load(at) * v
        if MATCHED:
            step *= inverse
            moved += v * shifts[EVALUATIONS - 1 - back]
        kept = tl.load(at + 6) * adjoint + tl.load(at + 7) * step
        adjoint += step
    return gradient, adjoint, moved


@triton.jit
def _matched_gradient(logits, upstream, noise, plan_ptr, EVALUATIONS: tl.constexpr):
    """The covariance-matched chain starts at N(p, v), v = max(p (1 - p), 0.1); p and v move with the logits."""
    mean = softmax(logits)
    start, inverse = matched_start(mean, noise)
    chain, shifts = run_chain(logits, start, inverse, plan_ptr, EVALUATIONS, True)
    direct = covariance(chain[EVALUATIONS - 1], upstream)
    last = tl.load(plan_ptr + 8 * (EVALUATIONS - 1))
    gradient, adjoint, moved = _adjoint_chain(
        direct, last * direct * inverse, inverse, chain, shifts, plan_ptr, EVALUATIONS, True
    )
    moved += direct * shifts[EVALUATIONS - 1]
    to_variance = inverse * (0.5 * adjoint * start - moved * inverse)
    to_mean = tl.where(mean * (1.0 - mean) >= 0.1, to_variance * (1.0 - 2.0 * mean), 0.0)
    return gradient + covariance(mean, to_mean)


@triton.jit
def _exact_gradient(
    logits, upstream, prior, x, plan_ptr, weight, noise_ptr, at, stride,
    EVALUATIONS: tl.constexpr, INTERVALS: tl.constexpr, FROM_ZERO: tl.constexpr, NOISES: tl.constexpr,
    SECOND: tl.constexpr, GIVEN_NOISE: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """The exact law: z at lambda_1 given x, then the diffusion is swept back with the adjoint on the way."""
    last = tl.load(plan_ptr + 8 * (EVALUATIONS - 1))
    total = tl.zeros_like(logits)
    for i in range(NOISES):
        z = last * x + read_signed(noise_ptr, at, i, stride, NOISES, GIVEN_NOISE, CLASSES)
        upper = softmax(logits + last * z)
        gradient = _direct(upper, upstream, x, weight, SECOND)
        adjoint = last * gradient
        for back in tl.static_range(1, INTERVALS + 1):
            start, end, step = interval(plan_ptr, EVALUATIONS, INTERVALS - back)
            if FROM_ZERO and back == INTERVALS:  # at lambda = 0 every softmax is p, wherever z is
                lower = prior
            else:
                predicted = softmax(logits + start * (z - step * upper))
                z -= 0.5 * step * (upper + predicted)
                lower = softmax(logits + start * z)
            first = covariance(upper, 0.5 * step * adjoint)
            second = covariance(lower, 0.5 * step * adjoint + step * end * first)
            gradient += first + second
            adjoint += end * first + start * second
            upper = lower
        total += gradient
    return total * (1.0 / NOISES)
