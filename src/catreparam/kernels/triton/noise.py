"""Random numbers in Triton: one Philox4x32-10 block for four classes and a stream, whatever the tiles.

Counters are (group of four classes, row, stream). All of a tile is [ROWS, CLASSES], of groups [ROWS, GROUPS].
"""

# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

BETWEEN, WITHIN = (tl.constexpr(stream) for stream in (0x40000000, 0x40000001))  # draws; noise has the small streams


@triton.jit
def words(seed, group, row, stream):
    """Four random words for every group."""
    group = group.to(tl.uint32) + (row * 0).to(tl.uint32)
    zero = group * 0
    return tl.philox(seed, group, zero + row.to(tl.uint32), zero + (row >> 32).to(tl.uint32), zero + stream)


@triton.jit
def spread(a, b, c, d, CLASSES: tl.constexpr):
    """Four tiles of groups as one of classes: a is that of the first class of every group."""
    if CLASSES == 1:
        tile = a
    elif CLASSES == 2:
        tile = tl.reshape(tl.join(a, b), [a.shape[0], 2])
    else:
        tile = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [a.shape[0], CLASSES])
    return tile


@triton.jit
def normals(seed, group, row, stream, CLASSES: tl.constexpr):
    """Standard normals by Box and Muller, both of every pair."""
    first, second, third, fourth = words(seed, group, row, stream)
    radius, turns = _radius(first), _turns(second)
    more, rest = _radius(third), _turns(fourth)
    return spread(radius * cosine(turns), radius * sine(turns), more * cosine(rest), more * sine(rest), CLASSES)


@triton.jit
def _radius(word):
    return tl.sqrt(-2.0 * tl.log(word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10))


@triton.jit
def _turns(word):
    return word.to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10


@triton.jit
def cosine(turns):
    """cos(2 pi turns) for turns in [-1/2, 1/2], to 4e-7, without the range reduction of the library's cosine."""
    s = turns * turns
    tail = 60.16762924194336 + s * (-25.967599868774414 + s * 6.528658390045166)
    return 1.0 + s * (-19.73920440673828 + s * (64.93911743164062 + s * (-85.45014190673828 + s * tail)))


@triton.jit
def sine(turns):
    """sin(2 pi turns), likewise, to 8e-7."""
    s = turns * turns
    tail = -76.58016967773438 + s * (41.205684661865234 - s * 12.271716117858887)
    return turns * (6.283182621002197 + s * (-41.34142303466797 + s * (81.59619140625 + s * tail)))


@triton.jit
def uniform(word, more):
    """(word + 1/2) / 2^32. `more` is the fraction of the smallest words, without which 0 to 2^-33 would be empty."""
    u = word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    fine = word.to(tl.float32) * 2.3283064365386963e-10 + (more.to(tl.float32) + 0.5) * 5.421010862427522e-20
    return tl.where(u < 0.000244140625, fine, u)


@triton.jit
def exponential(word, more):
    """-log(1 - u) of a `uniform`: positive, finite, exact in relative terms near zero, for rare classes."""
    u = uniform(word, more)
    return tl.where(u < 0.0078125, u * (1.0 + u * (0.5 + u * 0.33333334)), -tl.log(1.0 - tl.minimum(u, 0.99999994)))


@triton.jit
def gumbels(seed, group, row, CLASSES: tl.constexpr):
    """Gumbel noise, with two words for every class."""
    a, a_more, b, b_more = words(seed, group, row, 0)
    if CLASSES > 2:
        c, c_more, d, d_more = words(seed, group, row, 1)
    else:
        c, c_more, d, d_more = a, a_more, b, b_more
    clock = spread(
        exponential(a, a_more), exponential(b, b_more), exponential(c, c_more), exponential(d, d_more), CLASSES
    )
    return -tl.log(clock)


@triton.jit
def index_of_largest(score):
    """[ROWS, 1]: where the first largest of a row is. NaN, in rows that are invalid anyway, never wins."""
    return tl.argmax(tl.where(score == score, score, float("-inf")), 1, keep_dims=True)


@triton.jit
def draw(weights, seed, group, row, stream, CLASSES: tl.constexpr):
    """[ROWS, 1]: the class drawn with probabilities in proportion to weights [ROWS, CLASSES].

    A race of exponential clocks between the groups, with the rates of their sums, then two splits within the winner's.
    The three share the fraction of their words: probabilities are exact to 2^-66.
    """
    if CLASSES == 1:
        drawn = tl.zeros([weights.shape[0], 1], tl.int32)
    else:
        clock, half, single, more = words(seed, group, row, stream)
        if CLASSES == 2:
            a, b = tl.split(tl.reshape(weights, [weights.shape[0], 1, 2]))
            drawn = tl.where(_is_first(a, b, half, more), 0, 1)
        else:
            GROUPS: tl.constexpr = CLASSES // 4
            even, odd = tl.split(tl.reshape(weights, [weights.shape[0], GROUPS, 2, 2]))
            a, c = tl.split(even)
            b, d = tl.split(odd)
            left = _is_first(a + b, c + d, half, more)
            first = _is_first(tl.where(left, a, c), tl.where(left, b, d), single, more)
            within = tl.where(left, 0, 2) + tl.where(first, 0, 1)
            if GROUPS == 1:
                drawn = within
            else:
                place = tl.arange(0, GROUPS)[None, :]
                winner = index_of_largest((a + b + (c + d)) / exponential(clock, more))
                drawn = tl.sum(tl.where(place == winner, 4 * place + within, 0), 1, keep_dims=True)
    return drawn


@triton.jit
def _is_first(a, b, word, more):
    """True with probability a / (a + b), exact however small the smaller of the two."""
    rarer = uniform(word, more) * (a + b) < tl.minimum(a, b)
    return (a <= b) == rarer
