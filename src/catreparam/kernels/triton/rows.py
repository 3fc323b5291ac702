"""Blocks of rows in Triton: tiles in and out, softmax, noise from Philox, exact draws, the chain of softmaxes.

A program works on a tile [ROWS, CLASSES], CLASSES being num_classes rounded up to a power of two. Where a class is only
padding, logits are -inf, so that its probability is zero. All maths is float32.
"""

# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl


@triton.jit
def tile_rows(ROWS: tl.constexpr):
    """The rows of this program, int64 [ROWS]."""
    return tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)


@triton.jit
def tile_elements(rows, classes, ROWS: tl.constexpr, CLASSES: tl.constexpr):
    """Where the tile's elements lie in a [rows, classes] tensor, and which of them exist."""
    row, column = tile_rows(ROWS), tl.arange(0, CLASSES)
    exists = (row < rows)[:, None] & (column < classes)[None, :]
    return row[:, None] * classes + column[None, :], exists


@triton.jit
def read_logits(logits_ptr, element, exists, classes, CLASSES: tl.constexpr):
    """Rows that do not exist read as zeros, classes that do not as -inf."""
    logits = tl.load(logits_ptr + element, mask=exists, other=0.0).to(tl.float32)
    return tl.where((tl.arange(0, CLASSES) < classes)[None, :], logits, float("-inf"))


@triton.jit
def read_rows(logits_ptr, element, exists, classes, CLASSES: tl.constexpr):
    """Logits with the largest of every row at 0, and what kinds the rows are."""
    logits = read_logits(logits_ptr, element, exists, classes, CLASSES)
    return centred(logits), kinds_of_rows(logits)


@triton.jit
def kinds_of_rows(logits):
    """[ROWS, 1]: what a row is, as `catreparam.pending` counts: 0 allows no class, 1 is valid, 2 has +inf, 3 NaN."""
    kind = tl.where(logits > float("-inf"), 1, 0)  # NaN is neither above nor equal
    kind = tl.where(logits == float("inf"), 2, kind)
    return tl.max(tl.where(logits != logits, 3, kind), 1, keep_dims=True)


@triton.jit
def valid_or_nan(out, kinds):
    """What is given back, NaN in rows that are not valid."""
    return tl.where(kinds == 1, out, float("nan"))


@triton.jit
def over_classes(tile):
    """Sums along the row, [ROWS, 1]."""
    return tl.sum(tile, 1, keep_dims=True)


@triton.jit
def centred(exponent):
    """The largest of every row taken off: noise added to logits of 1e30 would be lost."""
    top = tl.max(exponent, 1, keep_dims=True)
    return exponent - tl.where(top > float("-inf"), top, 0.0)


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


# --- random numbers: one Philox4x32-10 block per element and stream, whatever the tiles ---


@triton.jit
def read_seed(seed):
    """The seed, a number or the place of one on the device."""
    if seed.dtype.is_ptr():
        seed = tl.load(seed)
    return seed


@triton.jit
def words(seed, element, stream):
    """Four random words for every element."""
    low, high = element.to(tl.uint32), (element >> 32).to(tl.uint32)
    zero = low * 0
    return tl.philox(seed, low, high, (zero + stream).to(tl.uint32), zero)


@triton.jit
def exponential(word, more):
    """-log(1 - u) for u = (word + 1/2) / 2^32: positive, finite, exact in relative terms near zero.

    `more` is the fraction of the smallest words, for rare classes: without it nothing would lie between 0 and 2^-33.
    """
    u = word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    fine = word.to(tl.float32) * 2.3283064365386963e-10 + (more.to(tl.float32) + 0.5) * 5.421010862427522e-20
    u = tl.where(u < 0.000244140625, fine, u)
    return tl.where(u < 0.0078125, u * (1.0 + u * (0.5 + u * 0.33333334)), -tl.log(1.0 - tl.minimum(u, 0.99999994)))


@triton.jit
def normal(seed, element, stream):
    """Standard normals by Box and Muller."""
    first, second, _, _ = words(seed, element, stream)
    radius = tl.sqrt(-2.0 * tl.log(first.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10))
    return radius * cos_of_turns(second.to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10)


@triton.jit
def cos_of_turns(turns):
    """cos(2 pi turns) for turns in [-1/2, 1/2], to 4e-7, without the range reduction of the library's cosine."""
    s = turns * turns
    tail = 60.16762924194336 + s * (-25.967599868774414 + s * 6.528658390045166)
    return 1.0 + s * (-19.73920440673828 + s * (64.93911743164062 + s * (-85.45014190673828 + s * tail)))


@triton.jit
def read_normal(noise_ptr, seed, element, exists, stream, stride, GIVEN: tl.constexpr):
    """Normal noise of one stream: as given, or from the seed."""
    if GIVEN:
        noise = tl.load(noise_ptr + stream * stride + element, mask=exists, other=0.0)
    else:
        noise = normal(seed, element, stream)
    return noise


@triton.jit
def read_gumbel(noise_ptr, seed, element, exists, GIVEN: tl.constexpr):
    """Gumbel noise: as given, or from the seed."""
    if GIVEN:
        noise = tl.load(noise_ptr + element, mask=exists, other=0.0)
    else:
        _, _, word, more = words(seed, element, 0)
        noise = -tl.log(exponential(word, more))
    return noise


@triton.jit
def one_hot_of_largest(score, CLASSES: tl.constexpr):
    """One-hot rows at the first largest entry; NaN, in rows that are invalid anyway, never wins."""
    winner = tl.argmax(tl.where(score == score, score, float("-inf")), 1, keep_dims=True)
    return (tl.arange(0, CLASSES)[None, :] == winner).to(tl.float32)


@triton.jit
def read_sample(x_ptr, seed, element, exists, probs, GIVEN: tl.constexpr, CLASSES: tl.constexpr):
    """The hard sample: as given, or the winner of a race of exponential clocks with rates p."""
    if GIVEN:
        x = tl.load(x_ptr + element, mask=exists, other=0.0)
    else:
        _, _, word, more = words(seed, element, 0)
        x = one_hot_of_largest(probs / exponential(word, more), CLASSES)
    return x


# --- the chain ---


@triton.jit
def matched_variance(probs):
    """Variances of the covariance-matched base, max(p (1 - p), 0.1)."""
    return tl.maximum(probs * (1.0 - probs), 0.1)


@triton.jit
def evaluate(logits, z, inverse, lam, MATCHED: tl.constexpr):
    """softmax(logits + lambda z), or with the covariance-matched chain's shift (z from the mean); and that shift."""
    if MATCHED:
        shift = lam * z - lam * lam * 0.5
        probs = softmax(logits + shift * inverse)
    else:
        shift = lam * z
        probs = softmax(logits + shift)
    return probs, shift


@triton.jit
def run_to_sample(logits, z, inverse, plan_ptr, evaluations, MATCHED: tl.constexpr):
    """The relaxed sample: the last softmax of `plan.plan_of`."""
    probs, before = tl.zeros_like(z), tl.zeros_like(z)
    for j in range(evaluations):
        z, peeked = _carry(z, probs, before, plan_ptr + 8 * j)
        before = probs
        probs, _ = evaluate(logits, peeked, inverse, tl.load(plan_ptr + 8 * j), MATCHED)
    return probs


@triton.jit
def run_chain(logits, z, inverse, plan_ptr, EVALUATIONS: tl.constexpr, MATCHED: tl.constexpr):
    """All softmaxes and shifts of the same chain as two tuples, for the backward pass: unrolled, kept in registers."""
    probs, before = tl.zeros_like(z), tl.zeros_like(z)
    chain = ()
    shifts = ()
    for j in tl.static_range(EVALUATIONS):
        z, peeked = _carry(z, probs, before, plan_ptr + 8 * j)
        before = probs
        probs, shift = evaluate(logits, peeked, inverse, tl.load(plan_ptr + 8 * j), MATCHED)
        chain = chain + (probs,)
        shifts = shifts + (shift,)
    return chain, shifts


@triton.jit
def _carry(z, probs, before, at):
    """z moved to the next evaluation, and where that evaluates."""
    z += tl.load(at + 1) * probs + tl.load(at + 2) * before
    return z, z + tl.load(at + 3) * probs
