"""Blocks of rows in Triton: tiles in and out, softmax, the chain of softmaxes of rows that a program holds whole.

A tile is [ROWS, CLASSES], CLASSES being a power of two. Where a class is only padding, logits are -inf, so that its
probability is zero. All maths is float32. Where a tile lies goes as a tuple, `at`: (element, exists, column, group of
four columns, row, seed).
"""

# ruff: noqa: SIM108 (a branch on a compile-time constant is clearer as a statement)
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from catreparam.kernels.triton.noise import draw, gumbels, normals


@triton.jit
def tile_at(seed_ptr, rows, classes, ROWS: tl.constexpr, CLASSES: tl.constexpr):
    """Where the tile of this program lies in a [rows, classes] tensor: a piece of each of its rows, or all of them."""
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    return piece_at(read_seed(seed_ptr), row, row < rows, tl.program_id(1) * CLASSES, classes, CLASSES)


@triton.jit
def piece_at(seed, row, row_exists, start, classes, CLASSES: tl.constexpr):
    """Where the columns from `start` of some rows lie."""
    GROUPS: tl.constexpr = (CLASSES + 3) // 4
    column = start + tl.arange(0, CLASSES)[None, :]
    group = start // 4 + tl.arange(0, GROUPS)[None, :]
    return row * classes + column, row_exists & (column < classes), column, group, row, seed


@triton.jit
def read_seed(seed):
    """The seed, a number or the place of one on the device."""
    if seed.dtype.is_ptr():
        seed = tl.load(seed)
    return seed


@triton.jit
def read_logits(logits_ptr, at, classes):
    """Rows that do not exist read as zeros, classes that do not as -inf."""
    element = at[0]
    exists = at[1]
    column = at[2]
    logits = tl.load(logits_ptr + element, mask=exists, other=0.0).to(tl.float32)
    return tl.where(column < classes, logits, float("-inf"))


@triton.jit
def read_rows(logits_ptr, at, classes):
    """Logits with the largest of every row at 0, and what kinds the rows are."""
    logits = read_logits(logits_ptr, at, classes)
    return centred(logits), tl.max(kinds(logits), 1, keep_dims=True)


@triton.jit
def kinds(logits):
    """What every logit makes of its row, the largest counting: 0 allows no class, 1 is valid, 2 has +inf, 3 NaN."""
    kind = tl.where(logits > float("-inf"), 1, 0)  # NaN is neither above nor equal
    kind = tl.where(logits == float("inf"), 2, kind)
    return tl.where(logits != logits, 3, kind)


@triton.jit
def read(tensor_ptr, at):
    """Any other tensor, zero where nothing is."""
    element = at[0]
    exists = at[1]
    return tl.load(tensor_ptr + element, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def write(tensor_ptr, at, tile, kind):
    """The tile where it exists, in the tensor's dtype, NaN in rows that are not valid."""
    element = at[0]
    exists = at[1]
    tile = tl.where(kind == 1, tile, float("nan"))
    tl.store(tensor_ptr + element, tile.to(tensor_ptr.dtype.element_ty), mask=exists)


@triton.jit
def over_classes(tile):
    """Sums along the row, [ROWS, 1]."""
    return tl.sum(tile, 1, keep_dims=True)


@triton.jit
def finite(top):
    """What to take off exponents whose largest is `top`: nothing if all are -inf."""
    return tl.where(top > float("-inf"), top, 0.0)


@triton.jit
def centred(exponent):
    """The largest of every row taken off: noise added to logits of 1e30 would be lost."""
    return exponent - finite(tl.max(exponent, 1, keep_dims=True))


@triton.jit
def softmax(exponent):
    """Probabilities along the row."""
    weight = tl.exp(centred(exponent))
    return weight * (1.0 / over_classes(weight))


@triton.jit
def softmax_at(exponent, temperature):
    """softmax(exponent / temperature): what is divided is at most 0, so that no temperature is too low."""
    return softmax(centred(exponent) / temperature)


@triton.jit
def covariance(probs, vector):
    """J(p) u = p (u - <p, u>)."""
    return probs * (vector - over_classes(probs * vector))


# --- noise and samples ---


@triton.jit
def read_normal(noise_ptr, at, stream, stride, GIVEN: tl.constexpr, CLASSES: tl.constexpr):
    """Normal noise of one stream: as given, or from the seed."""
    group = at[3]
    row = at[4]
    seed = at[5]
    if GIVEN:
        noise = read(noise_ptr + stream * stride, at)
    else:
        noise = normals(seed, group, row, stream, CLASSES)
    return noise


@triton.jit
def read_signed(noise_ptr, at, i, stride, NOISES: tl.constexpr, GIVEN: tl.constexpr, CLASSES: tl.constexpr):
    """Noise i of NOISES: as given, or antithetic, the second half being the first with the other sign."""
    half = NOISES if GIVEN else (NOISES + 1) // 2
    stream = tl.where(i < half, i, i - half)
    return tl.where(i < half, 1.0, -1.0) * read_normal(noise_ptr, at, stream, stride, GIVEN, CLASSES)


@triton.jit
def read_gumbel(noise_ptr, at, GIVEN: tl.constexpr, CLASSES: tl.constexpr):
    """Gumbel noise: as given, or from the seed."""
    group = at[3]
    row = at[4]
    seed = at[5]
    if GIVEN:
        noise = read(noise_ptr, at)
    else:
        noise = gumbels(seed, group, row, CLASSES)
    return noise


@triton.jit
def read_sample(x_ptr, at, probs, GIVEN: tl.constexpr, CLASSES: tl.constexpr, STREAM: tl.constexpr):
    """The hard sample: as given, or drawn with probabilities p."""
    column = at[2]
    group = at[3]
    row = at[4]
    seed = at[5]
    if GIVEN:
        x = read(x_ptr, at)
    else:
        x = (column == draw(probs, seed, group, row, STREAM, CLASSES)).to(tl.float32)
    return x


# --- the chain ---


@triton.jit
def matched_variance(probs):
    """Variances of the covariance-matched base, max(p (1 - p), 0.1)."""
    return tl.maximum(probs * (1.0 - probs), 0.1)


@triton.jit
def matched_start(probs, noise):
    """Where the covariance-matched chain starts, from its mean; and one over its variances."""
    variance = matched_variance(probs)
    return tl.sqrt(variance) * noise, 1.0 / variance


@triton.jit
def exponent_of(logits, z, inverse, lam, MATCHED: tl.constexpr):
    """logits + lambda z, or with the covariance-matched chain's shift (z from the mean); and that shift."""
    if MATCHED:
        shift = lam * z - lam * lam * 0.5
        exponent = logits + shift * inverse
    else:
        shift = lam * z
        exponent = logits + shift
    return exponent, shift


@triton.jit
def run_to_sample(logits, z, inverse, plan_ptr, evaluations, MATCHED: tl.constexpr):
    """The relaxed sample: the last softmax of `plan.plan_of`."""
    probs, before = tl.zeros_like(z), tl.zeros_like(z)
    for j in range(evaluations):
        z, peeked = carry(z, probs, before, plan_ptr + 8 * j)
        before = probs
        exponent, _ = exponent_of(logits, peeked, inverse, tl.load(plan_ptr + 8 * j), MATCHED)
        probs = softmax(exponent)
    return probs


@triton.jit
def run_chain(logits, z, inverse, plan_ptr, EVALUATIONS: tl.constexpr, MATCHED: tl.constexpr):
    """All softmaxes and shifts of the same chain as two tuples, for the backward pass: unrolled, kept in registers."""
    probs, before = tl.zeros_like(z), tl.zeros_like(z)
    chain = ()
    shifts = ()
    for j in tl.static_range(EVALUATIONS):
        z, peeked = carry(z, probs, before, plan_ptr + 8 * j)
        before = probs
        exponent, shift = exponent_of(logits, peeked, inverse, tl.load(plan_ptr + 8 * j), MATCHED)
        probs = softmax(exponent)
        chain = chain + (probs,)
        shifts = shifts + (shift,)
    return chain, shifts


@triton.jit
def carry(z, probs, before, at):
    """z moved to the next evaluation, and where that evaluates."""
    z += tl.load(at + 1) * probs + tl.load(at + 2) * before
    return z, z + tl.load(at + 3) * probs


@triton.jit
def interval(plan_ptr, EVALUATIONS: tl.constexpr, number):
    """Start, end and step of an interval of the plan."""
    place = plan_ptr + 8 * EVALUATIONS + 3 * number
    return tl.load(place), tl.load(place + 1), tl.load(place + 2)
