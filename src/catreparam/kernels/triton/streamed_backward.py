"""Backward pass in Triton for rows too wide to hold: one row a program, in pieces, again for every number of it."""

# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from catreparam.kernels.triton.pieces import (
    add_weights,
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
    over_classes,
    piece_at,
    read,
    read_gumbel,
    read_logits,
    read_seed,
    write,
)
from catreparam.kernels.triton.streamed_sweep import direct, sweep_gradient


@triton.jit(do_not_specialize=["seed_ptr"])
def streamed_backward_kernel(
    logits_ptr, upstream_ptr, noise_ptr, x_ptr, seed_ptr, plan_ptr, out_ptr, rows, classes, temperature, weight,
    RULE: tl.constexpr, TEMPERED: tl.constexpr, EVALUATIONS: tl.constexpr, INTERVALS: tl.constexpr,
    FROM_ZERO: tl.constexpr, NOISES: tl.constexpr, SECOND: tl.constexpr,
    GIVEN_NOISE: tl.constexpr, GIVEN_X: tl.constexpr, CLASSES: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """As `backward_kernel`, for rows of at most PIECES pieces of CLASSES columns. Noises add up in out: float32."""
    row = tl.program_id(0).to(tl.int64) + tl.zeros([1, 1], tl.int64)
    seed = read_seed(seed_ptr)
    place = seed, row, classes
    top, scale, mean, weights, kind = read_row(
        logits_ptr, upstream_ptr, seed, row, classes, 1.0, RULE == "DIRECT", CLASSES
    )
    if RULE == "GUMBEL":
        _gumbel_gradient(
            logits_ptr, upstream_ptr, noise_ptr, out_ptr, place, top, kind, temperature, GIVEN_NOISE, CLASSES
        )
    elif RULE == "CHAIN" or RULE == "MATCHED":
        source = logits_ptr, noise_ptr, classes, top, scale
        _chain_gradient(
            source, upstream_ptr, x_ptr, plan_ptr, out_ptr, place, weights, kind, weight,
            EVALUATIONS, FROM_ZERO, SECOND, RULE == "MATCHED", GIVEN_NOISE, GIVEN_X, CLASSES, PIECES,
        )  # fmt: skip
    else:
        tl.static_assert(RULE == "DIRECT" or RULE == "SWEEP", "no backward kernel for this rule")
        drawn = tl.zeros([1, 1], tl.int32)
        if RULE == "SWEEP" or SECOND:
            drawn = draw_from_logits(logits_ptr, weights, seed, row, classes, CLASSES, PIECES)
        at_x = tl.zeros([1, 1], tl.float32)
        if SECOND:
            at_x = upstream_at(upstream_ptr, x_ptr, place, drawn, GIVEN_X, CLASSES)
        if RULE == "SWEEP":
            pointers = logits_ptr, upstream_ptr, noise_ptr, x_ptr, plan_ptr, out_ptr
            for i in range(NOISES):
                sweep_gradient(
                    pointers, place, rows, top, scale, kind, weight, at_x, drawn, i,
                    EVALUATIONS, INTERVALS, FROM_ZERO, NOISES, SECOND, GIVEN_NOISE, GIVEN_X, CLASSES,
                )  # fmt: skip
        else:
            _direct_gradient(
                logits_ptr, upstream_ptr, x_ptr, out_ptr, place, top, scale, mean, kind, temperature, weight,
                at_x, drawn, TEMPERED, SECOND, GIVEN_X, CLASSES,
            )  # fmt: skip


@triton.jit
def upstream_at(upstream_ptr, x_ptr, place, drawn, GIVEN: tl.constexpr, CLASSES: tl.constexpr):
    """<x, upstream>, [1, 1]."""
    seed, row, classes = place
    if GIVEN:
        total = tl.zeros([1, CLASSES // 4], tl.float32)
        for start in range(0, classes, CLASSES):
            at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
            total += tl.sum(by_lane(read(x_ptr, at) * read(upstream_ptr, at), CLASSES), 2)
        found = over_classes(total)
    else:
        found = tl.load(upstream_ptr + row * classes + drawn, mask=drawn < classes, other=0.0).to(tl.float32)
    return found


@triton.jit
def _direct_gradient(
    logits_ptr, upstream_ptr, x_ptr, out_ptr, place, top, scale, mean, kind, temperature, weight, at_x, drawn,
    TEMPERED: tl.constexpr, SECOND: tl.constexpr, GIVEN_X: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    seed, row, classes = place
    soft_scale, soft_mean = scale, mean
    if SECOND and TEMPERED:  # ReinMax at a temperature: 2 J(m) g - J(p) g / 2
        _, soft_scale, soft_mean, _, _ = read_row(
            logits_ptr, upstream_ptr, seed, row, classes, temperature, True, CLASSES
        )
    for start in range(0, classes, CLASSES):
        at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
        logits = read_logits(logits_ptr, at, classes) - top
        upstream = read(upstream_ptr, at)
        probs = tl.exp(logits) * scale
        x = read_drawn(x_ptr, at, drawn, GIVEN_X and SECOND)
        if SECOND and TEMPERED:
            middle = 0.5 * (tl.exp(logits / temperature) * soft_scale + x)
            middle_mean = 0.5 * (soft_mean + at_x)
            gradient = 2.0 * middle * (upstream - middle_mean) - 0.5 * probs * (upstream - mean)
        else:
            gradient = direct(probs, upstream, x, weight, mean, at_x, SECOND)
        write(out_ptr, at, gradient, kind)


@triton.jit
def _gumbel_gradient(
    logits_ptr, upstream_ptr, noise_ptr, out_ptr, place, top, kind, temperature,
    GIVEN_NOISE: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    seed, row, classes = place
    most = tl.full([1, CLASSES // 4], float("-inf"), tl.float32)
    total, dot = tl.zeros_like(most), tl.zeros_like(most)
    for start in range(0, classes, CLASSES):
        at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
        perturbed = read_logits(logits_ptr, at, classes) - top + read_gumbel(noise_ptr, at, GIVEN_NOISE, CLASSES)
        most, total, dot = add_weights(most, total, dot, perturbed, read(upstream_ptr, at), temperature, CLASSES)
    largest, scale, mean, _ = join_lanes(most, total, dot, temperature)
    for start in range(0, classes, CLASSES):
        at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
        perturbed = read_logits(logits_ptr, at, classes) - top + read_gumbel(noise_ptr, at, GIVEN_NOISE, CLASSES)
        probs = tl.exp((perturbed - largest) / temperature) * scale
        write(out_ptr, at, probs * (read(upstream_ptr, at) - mean) / temperature, kind)


@triton.jit
def _chain_gradient(
    source, upstream_ptr, x_ptr, plan_ptr, out_ptr, place, weights, kind, weight,
    EVALUATIONS: tl.constexpr, FROM_ZERO: tl.constexpr, SECOND: tl.constexpr, MATCHED: tl.constexpr,
    GIVEN_NOISE: tl.constexpr, GIVEN_X: tl.constexpr, CLASSES: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """The adjoint's means <p_j, u_j> one by one, each in a pass that makes chain and adjoint again up to there."""
    seed, row, classes = place
    tops, scales, mean, weights = run_chain_passes(
        source, upstream_ptr, seed, row, plan_ptr, weights,
        EVALUATIONS, EVALUATIONS, FROM_ZERO, True, MATCHED, GIVEN_NOISE, CLASSES,
    )  # fmt: skip
    drawn = tl.zeros([1, 1], tl.int32)
    at_x = tl.zeros([1, 1], tl.float32)
    if SECOND:
        drawn = draw_from_chain(
            source, weights, seed, row, plan_ptr, tops, scales, EVALUATIONS - 1, MATCHED, GIVEN_NOISE, CLASSES, PIECES
        )
        at_x = upstream_at(upstream_ptr, x_ptr, place, drawn, GIVEN_X, CLASSES)
    numbers = tops, scales, mean, at_x, drawn, weight
    pointers = upstream_ptr, x_ptr, plan_ptr
    means = ()
    for known in tl.static_range(EVALUATIONS if MATCHED else EVALUATIONS - 1):
        total = tl.zeros([1, CLASSES // 4], tl.float32)
        for start in range(0, classes, CLASSES):
            at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
            _gradient, probs, vector = _adjoint_to(
                source, pointers, at, numbers, means, known, EVALUATIONS, SECOND, MATCHED, GIVEN_NOISE, GIVEN_X, CLASSES
            )
            total += tl.sum(by_lane(probs * vector, CLASSES), 2)
        means = means + (over_classes(total),)
    for start in range(0, classes, CLASSES):
        at = piece_at(seed, row, row >= 0, start, classes, CLASSES)
        gradient, probs, vector = _adjoint_to(
            source, pointers, at, numbers, means, EVALUATIONS - 1,
            EVALUATIONS, SECOND, MATCHED, GIVEN_NOISE, GIVEN_X, CLASSES,
        )  # fmt: skip
        if MATCHED:
            gradient += probs * (vector - means[EVALUATIONS - 1])
        write(out_ptr, at, gradient, kind)


@triton.jit
def _adjoint_to(
    source, pointers, at, numbers, means, KNOWN: tl.constexpr, EVALUATIONS: tl.constexpr,
    SECOND: tl.constexpr, MATCHED: tl.constexpr, GIVEN_NOISE: tl.constexpr, GIVEN_X: tl.constexpr,
    CLASSES: tl.constexpr,
):  # fmt: skip
    """The gradient after as many steps back as there are means; probabilities and vector of the mean that is next.

    After the last step that is the one to the mean of the covariance-matched base.
    """
    upstream_ptr, x_ptr, plan_ptr = pointers
    tops, scales, mean, at_x, drawn, weight = numbers
    logits, z, inverse = chain_start(source, at, MATCHED, GIVEN_NOISE, CLASSES)
    exponent, shift, chain, shifts = chain_to(logits, z, inverse, plan_ptr, tops, scales, EVALUATIONS - 1, MATCHED)
    soft = tl.exp(exponent - tops[EVALUATIONS - 1]) * scales[EVALUATIONS - 1]
    upstream = read(upstream_ptr, at)
    gradient = soft * (upstream - mean)
    adjoint = tl.load(plan_ptr + 8 * (EVALUATIONS - 1)) * gradient
    moved = gradient
    if MATCHED:
        adjoint *= inverse
        moved = gradient * shift
    if SECOND:
        x = read_drawn(x_ptr, at, drawn, GIVEN_X)
        gradient = direct(soft, upstream, x, weight, mean, at_x, SECOND)
    kept = tl.zeros_like(adjoint)
    for back in tl.static_range(1, KNOWN + 1):
        place = plan_ptr + 8 * (EVALUATIONS - 1 - back)
        vector = tl.load(place + 4) * adjoint + tl.load(place + 5) * kept
        v = chain[EVALUATIONS - 1 - back] * (vector - means[back - 1])
        gradient += v
        step = tl.load(place) * v
        if MATCHED:
            step *= inverse
            moved += v * shifts[EVALUATIONS - 1 - back]
        kept = tl.load(place + 6) * adjoint + tl.load(place + 7) * step
        adjoint += step
    if KNOWN < EVALUATIONS - 1:
        place = plan_ptr + 8 * (EVALUATIONS - 2 - KNOWN)
        probs = chain[EVALUATIONS - 2 - KNOWN]
        vector = tl.load(place + 4) * adjoint + tl.load(place + 5) * kept
    elif MATCHED:
        scale = source[4]
        probs = tl.exp(logits) * scale
        to_variance = inverse * (0.5 * adjoint * z - moved * inverse)
        vector = tl.where(probs * (1.0 - probs) >= 0.1, to_variance * (1.0 - 2.0 * probs), 0.0)
    else:
        probs, vector = soft, adjoint
    return gradient, probs, vector
