"""Forward pass in Triton: the hard sample of every method, or the relaxed one; and the noise of a seed, written out.

For rows that a program holds whole; `streamed_forward` has those that are wider.
"""

# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from catreparam.kernels.triton.noise import BETWEEN, index_of_largest
from catreparam.kernels.triton.rows import (
    matched_start,
    read_gumbel,
    read_normal,
    read_rows,
    read_sample,
    read_signed,
    run_to_sample,
    softmax,
    softmax_at,
    tile_at,
    write,
)


@triton.jit(do_not_specialize=["seed_ptr"])
def forward_kernel(
    logits_ptr, noise_ptr, x_ptr, seed_ptr, plan_ptr, out_ptr, flag_ptr, rows, classes, temperature,
    RULE: tl.constexpr, EVALUATIONS: tl.constexpr, FROM_ZERO: tl.constexpr, NOISES: tl.constexpr, HARD: tl.constexpr,
    GIVEN_NOISE: tl.constexpr, GIVEN_X: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """out [rows, classes] = the sample, NaN in rows that are not valid. RULE: name of a `Rule`.

    flag [4]: 1 at the kinds of the rows that are not valid. seed_ptr: a number, or its place on the device.
    """
    at = tile_at(seed_ptr, rows, classes, ROWS, CLASSES)
    logits, kind = read_rows(logits_ptr, at, classes)
    tl.store(flag_ptr + kind, 1, mask=kind != 1)  # whoever writes writes the same
    if RULE == "GUMBEL":
        perturbed = logits + read_gumbel(noise_ptr, at, GIVEN_NOISE, CLASSES)
        if HARD:
            out = (tl.arange(0, CLASSES)[None, :] == index_of_largest(perturbed)).to(tl.float32)
        else:
            out = softmax_at(perturbed, temperature)
    elif RULE == "CHAIN" or RULE == "MATCHED":
        z = read_normal(noise_ptr, at, 0, 0, GIVEN_NOISE, CLASSES)
        inverse = z
        if RULE == "MATCHED":
            z, inverse = matched_start(softmax(logits), z)
        out = run_to_sample(logits, z, inverse, plan_ptr, EVALUATIONS, RULE == "MATCHED")
        if HARD:
            out = read_sample(x_ptr, at, out, GIVEN_X, CLASSES, BETWEEN)
    else:
        tl.static_assert(RULE == "DIRECT" or RULE == "SWEEP", "no forward kernel for this rule")
        out = read_sample(x_ptr, at, softmax(logits), GIVEN_X, CLASSES, BETWEEN)
        if RULE == "SWEEP" and not HARD:
            last = tl.load(plan_ptr + 8 * (EVALUATIONS - 1))
            out = _mean_soft(logits, out, last, noise_ptr, at, rows * classes, NOISES, GIVEN_NOISE, CLASSES)
    write(out_ptr, at, out, kind)


@triton.jit(do_not_specialize=["seed_ptr"])
def replay_kernel(
    noise_out_ptr, seed_ptr, rows, classes, stream, GUMBEL: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr
):
    """noise_out [rows, classes] = the noise of a stream. Program (i, j): columns from j CLASSES of rows from i ROWS."""
    at = tile_at(seed_ptr, rows, classes, ROWS, CLASSES)
    if GUMBEL:
        noise = read_gumbel(noise_out_ptr, at, False, CLASSES)
    else:
        noise = read_normal(noise_out_ptr, at, stream, 0, False, CLASSES)
    write(noise_out_ptr, at, noise, 1)


@triton.jit
def _mean_soft(
    logits, x, last, noise_ptr, at, stride, NOISES: tl.constexpr, GIVEN_NOISE: tl.constexpr, CLASSES: tl.constexpr
):
    """The mean over the noises of softmax(logits + last z), z = last x + noise."""
    total = tl.zeros_like(logits)
    for i in range(NOISES):
        noise = read_signed(noise_ptr, at, i, stride, NOISES, GIVEN_NOISE, CLASSES)
        total += softmax(logits + last * (last * x + noise))
    return total * (1.0 / NOISES)
