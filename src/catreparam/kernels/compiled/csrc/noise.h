// Random numbers by counter: Philox4x32-10 (Salmon et al. 2011), normals by Box-Muller, Gumbels by inversion.
// A value depends on (seed, row, class, stream) only: not on threads, blocks, or the width of a vector.
#pragma once

#include "lanes.h"

namespace catreparam {
namespace {

struct Words {
  vu w[4];
};

struct Wide {  // the counter's four words, in the low half of wide lanes
  vw c[4];
};

constexpr int kRounds = 10;

INLINE void philox_round(Wide& s, vw key0, vw key1) {
  const vw p0 = product32(s.c[0], vw{} + 0xD2511F53u), p1 = product32(s.c[2], vw{} + 0xCD9E8D57u);
  // Upper halves hold rubbish from here on; products and the final packing ignore them.
  s.c[0] = xor3(p1 >> 32, s.c[1], key0);
  s.c[2] = xor3(p0 >> 32, s.c[3], key1);
  s.c[1] = p1;
  s.c[3] = p0;
}

INLINE vu interleave(vw even, vw odd) { return (vu)((even & 0xffffffffu) | (odd << 32)); }

template <int... I>
INLINE vw count_by_two(std::integer_sequence<int, I...>) { return vw{(uint64_t)(2 * I)...}; }

struct Generator {
  uint64_t keys[2 * kRounds];  // of every round, two 32-bit words: from memory they go to all lanes for nothing

  explicit Generator(uint64_t seed) {
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < kRounds; ++round) {
      keys[2 * round] = key0;
      keys[2 * round + 1] = key1;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
  }

  // Lanes run over rows (row, row + 1, ...) or, Along, over groups (group, group + 1, ...).
  template <bool Along>
  INLINE Words words(uint64_t group, uint64_t row, uint32_t stream) const {
    const vw step = count_by_two(std::make_integer_sequence<int, W / 2>());
    Wide even, odd;
    even.c[0] = Along ? vw{} + group + step : vw{} + group;
    even.c[1] = Along ? vw{} + row : vw{} + row + step;
    odd.c[0] = Along ? even.c[0] + 1 : even.c[0];
    odd.c[1] = Along ? even.c[1] : even.c[1] + 1;
    even.c[2] = even.c[1] >> 32;
    odd.c[2] = odd.c[1] >> 32;
    even.c[3] = odd.c[3] = vw{} + stream;
#pragma GCC unroll 10
    for (int round = 0; round < kRounds; ++round) {
      const vw key0 = vw{} + keys[2 * round], key1 = vw{} + keys[2 * round + 1];
      philox_round(even, key0, key1);
      philox_round(odd, key0, key1);
    }
    Words out;
    for (int i = 0; i < 4; ++i) out.w[i] = interleave(even.c[i], odd.c[i]);
    return out;
  }
};

constexpr uint32_t kUniformStream = 0xffffffffu;  // the draw of the hard sample; noises have streams 0, 1, ...
// A word this near to the end where rare classes are decided gets a second one for its fraction, from kTailStream, so
// that a class of 1e-12 wins as often as it should. All other words are worth what they are alone.
constexpr uint32_t kTailStream = 0xfffffffeu;
constexpr float kTail = 0x1p-14f;  // as a share of all words
constexpr float kTailGumbel = 9.7f;  // a little below -log(kTail), the least Gumbel of the tail

// (0, 1), odd multiples of 2^-25.
INLINE vf fraction(vu word) { return (to_float((vi)(word >> 8)) + 0.5f) * 0x1p-24f; }

// (0, 1], never 0; its small values keep full relative precision, those near 1 do not.
INLINE vf uniform(vu word) { return (to_float((vi)(word >> 1)) + 0.5f) * 0x1p-31f; }
struct Two {
  vf a, b;
};

// Two independent standard normals from two words.
INLINE Two normals(vu radius_word, vu angle_word) {
  const vf radius = square_root(maximum(-2.0f * log_lanes(uniform(radius_word)), splat(0.0f)));
  const vf t = to_float((vi)(angle_word << 2)) * 0x1p-31f;  // within a quarter turn around 0: angle = t pi / 4
  const vf t2 = t * t;
  vf sine = splat(-3.5950452245909510e-05f);
  sine = sine * t2 + 2.4900010242596706e-03f;
  sine = sine * t2 - 8.0745432529394742e-02f;
  sine = sine * t2 + 7.8539816085421743e-01f;
  sine = sine * t * radius;
  vf cosine = splat(-3.1872784029467806e-04f);
  cosine = cosine * t2 + 1.5849684170987432e-02f;
  cosine = cosine * t2 - 3.0842416559193053e-01f;
  cosine = cosine * t2 + 9.9999996738686359e-01f;
  cosine = (vf)(bits(cosine * radius) ^ (vi)(angle_word & 0x80000000u));  // the top two bits pick the quarter
  const vi swap = (vi)((angle_word & 0x40000000u) != 0u);
  return {select(swap, sine, cosine), select(swap, cosine, sine)};
}

INLINE vf gumbel(vf u) {
  const vf exponential = maximum(-log_lanes(u), splat(0x1p-126f));
  return -log_lanes(exponential);
}

// Of a word at the upper end, where -log(u) is how far u is below 1: `more` tells how far exactly. The mask is for others.
INLINE vf gumbel_of_tail(vu word, vu more) {
  const vf below_one = (to_float((vi)(~word & 0x1fffffu)) + fraction(more)) * 0x1p-32f;
  return -log_lanes(below_one + 0.5f * below_one * below_one);
}

// Writes those of a group's first `count` Gumbels anew that lie in the tail; a few groups in a thousand have any.
template <bool Along>
__attribute__((noinline)) void refine_gumbels(const Generator& generator, uint64_t group, uint64_t row, int count,
                                              float* to, int stride) {
  const Words words = generator.words<Along>(group, row, 0), more = generator.words<Along>(group, row, kTailStream);
  for (int i = 0; i < count; ++i) {
    const vi rare = uniform(words.w[i]) >= 1.0f - kTail;
    store(to + i * stride, select(rare, gumbel_of_tail(words.w[i], more.w[i]), load(to + i * stride)));
  }
}

// The difference of two Gumbels: logistic, both tails alike. `small` in (0, 1/2), the word's lowest bit is the sign.
INLINE vf logistic(vf small, vu word) {
  const vf distance = log_lanes(1.0f - small) - log_lanes(small);
  return (vf)(bits(distance) ^ (vi)(word << 31));
}

}  // namespace
}  // namespace catreparam
