"""Forward pass in Triton: the hard sample of every method, or the relaxed one; and the noise of a seed, written out."""

# ruff: noqa: SIM108 (a branch on a compile-time constant is clearer as a statement)
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from catreparam.kernels.triton.rows import (
    matched_variance,
    one_hot_of_largest,
    read_gumbel,
    read_normal,
    read_rows,
    read_sample,
    read_seed,
    run_to_sample,
    softmax,
    softmax_at,
    tile_elements,
    valid_or_nan,
)


@triton.jit(do_not_specialize=["seed_ptr"])
def forward_kernel(
    logits_ptr, noise_ptr, x_ptr, seed_ptr, plan_ptr, out_ptr, flag_ptr, rows, classes, evaluations, temperature,
    RULE: tl.constexpr, NOISES: tl.constexpr, HARD: tl.constexpr,
    GIVEN_NOISE: tl.constexpr, GIVEN_X: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """out [rows, classes] = the sample, NaN in rows that are not valid. RULE: name of a `Rule`.

    flag [4]: 1 at the kinds of the rows that are not valid. seed_ptr: a number, or its place on the device.
    """
    element, exists = tile_elements(rows, classes, ROWS, CLASSES)
    logits, kinds = read_rows(logits_ptr, element, exists, classes, CLASSES)
    tl.store(flag_ptr + kinds, 1, mask=kinds != 1)  # whoever writes writes the same
    seed = read_seed(seed_ptr)
    if RULE == "GUMBEL":
        noise = read_gumbel(noise_ptr, seed, element, exists, GIVEN_NOISE)
        perturbed = logits + noise
        if HARD:
            out = one_hot_of_largest(perturbed, CLASSES)
        else:
            out = softmax_at(perturbed, temperature)
    elif RULE == "CHAIN" or RULE == "MATCHED":
        z = read_normal(noise_ptr, seed, element, exists, 0, 0, GIVEN_NOISE)
        inverse = z
        if RULE == "MATCHED":
            variance = matched_variance(softmax(logits))
            z *= tl.sqrt(variance)
            inverse = 1.0 / variance
        out = run_to_sample(logits, z, inverse, plan_ptr, evaluations, RULE == "MATCHED")
        if HARD:
            out = read_sample(x_ptr, seed, element, exists, out, GIVEN_X, CLASSES)
    else:
        tl.static_assert(RULE == "DIRECT" or RULE == "SWEEP", "no forward kernel for this rule")
        out = read_sample(x_ptr, seed, element, exists, softmax(logits), GIVEN_X, CLASSES)
        if RULE == "SWEEP" and not HARD:
            last = tl.load(plan_ptr + 8 * (evaluations - 1))
            out = _mean_soft(logits, out, last, noise_ptr, seed, element, exists, rows * classes, NOISES, GIVEN_NOISE)
    tl.store(out_ptr + element, valid_or_nan(out, kinds).to(out_ptr.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=["seed_ptr"])
def replay_kernel(
    noise_out_ptr, seed_ptr, rows, classes, stream, GUMBEL: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr
):
    """noise_out [rows, classes] = the noise of a stream."""
    element, exists = tile_elements(rows, classes, ROWS, CLASSES)
    seed = read_seed(seed_ptr)
    if GUMBEL:
        noise = read_gumbel(noise_out_ptr, seed, element, exists, False)
    else:
        noise = read_normal(noise_out_ptr, seed, element, exists, stream, 0, False)
    tl.store(noise_out_ptr + element, noise, mask=exists)


@triton.jit
def _mean_soft(
    logits, x, last, noise_ptr, seed, element, exists, stride, NOISES: tl.constexpr, GIVEN_NOISE: tl.constexpr
):
    """The mean over the noises of softmax(logits + last z), z = last x + noise."""
    total = tl.zeros_like(logits)
    half = NOISES if GIVEN_NOISE else (NOISES + 1) // 2
    for i in range(NOISES):
        stream = tl.where(i < half, i, i - half)
        sign = tl.where(i < half, 1.0, -1.0)
        noise = read_normal(noise_ptr, seed, element, exists, stream, stride, GIVEN_NOISE)
        total += softmax(logits + last * (last * x + sign * noise))
    return total * (1.0 / NOISES)
