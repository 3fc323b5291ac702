// Two classes: everything is a function of the difference of the logits, and every Jacobian is one number, the gradient
// being -/+ that number times the difference of the upstream gradient. 2 W rows at a time share one Philox block.
#pragma once

#include "draw.h"
#include "rows_io.h"

namespace catreparam {
namespace {

struct Sigmoid {  // of y, for softmax([0, y])
  vf small;       // probability of the less likely class
  vf tanh;        // p1 - p0
  vf variance;    // p0 p1
};

INLINE Sigmoid sigmoid(vf y) {
  const vf e = exp2_lanes(absolute(y) * -kLog2e);
  const vf inverse = 1.0f / (1.0f + e), small = e * inverse;
  const vf distance = inverse - small;
  return {small, (vf)(bits(distance) | (bits(y) & (int32_t)0x80000000)), small * inverse};
}

INLINE vf first_probability(vf y, vf small) { return select(y > 0.0f, 1.0f - small, small); }  // of class 1

struct Pairs {
  const Call& call;
  const Generator generator;
  float* staging;  // [4 W]
  vf* variances;   // [num_evaluations]
  vf* shifts;      // [num_evaluations], redge_cov only
  vf* spare;       // [num_noises]
  Words zero;      // stream 0
  int64_t counter_row = 0, row = 0;
  int vector = 0;
  int valid = W;
  int32_t flags = 0;

  static int64_t bytes(const Call& call) { return (2 * call.num_evaluations + call.num_noises + 8) * (int64_t)sizeof(vf) + 1024; }

  Pairs(const Call& c, void* memory) : call(c), generator(c.seed), staging(static_cast<float*>(memory)) {
    variances = reinterpret_cast<vf*>(staging + 4 * W);
    shifts = variances + c.num_evaluations;
    spare = shifts + c.num_evaluations;
  }

  // --- in and out: W rows of two ---

  template <int... I>
  static INLINE void split(vf a, vf b, vf& first, vf& second, std::integer_sequence<int, I...>) {
    first = __builtin_shufflevector(a, b, (2 * I)...);
    second = __builtin_shufflevector(a, b, (2 * I + 1)...);
  }

  template <int... I>
  static INLINE void merge(vf first, vf second, vf& a, vf& b, std::integer_sequence<int, I...>) {
    a = __builtin_shufflevector(first, second, ((I & 1) ? W + I / 2 : I / 2)...);
    b = __builtin_shufflevector(first, second, ((I & 1) ? W + (W + I) / 2 : (W + I) / 2)...);
  }

  INLINE void read(const void* from, Dtype dtype, int64_t first_row, vf& first, vf& second) {
    const float* at = static_cast<const float*>(from) + 2 * first_row;
    if (dtype != kFloat32 || valid < W) {
      std::memset(staging, 0, 8 * W);
      widen(from, dtype, 2 * first_row, 2 * valid, staging);
      at = staging;
    }
    split(load(at), load(at + W), first, second, std::make_integer_sequence<int, W>());
  }

  INLINE vf read_difference(const void* from, Dtype dtype, int64_t first_row) {
    vf first, second;
    read(from, dtype, first_row, first, second);
    return second - first;
  }

  INLINE void write(vf first, vf second, void* to, Dtype dtype, int64_t first_row) {
    vf a, b;
    merge(first, second, a, b, std::make_integer_sequence<int, W>());
    if (dtype == kFloat32 && valid == W) {
      float* at = static_cast<float*>(to) + 2 * first_row;
      store(at, a);
      store(at + W, b);
      return;
    }
    store(staging, a);
    store(staging + W, b);
    narrow(staging, dtype, 2 * first_row, 2 * valid, to);
  }

  INLINE void read_logits(vf& first, vf& second) {
    read(call.logits, call.dtype, row, first, second);
    const vf top = maximum(first, second);
    const vi nan = (first != first) | (second != second);
    if (__builtin_expect(any(nan | ~((top > -INFINITY) & (top < INFINITY))), 0)) {
      flags |= any(nan) ? kFlagNan : 0;
      flags |= any((first == INFINITY) | (second == INFINITY)) ? kFlagInfinite : 0;
      flags |= any((first == -INFINITY) & (second == -INFINITY)) ? kFlagEmpty : 0;
    }
  }

  // --- noise: differences, class 1 minus class 0 ---

  // A Philox block serves two rows, 16 apart. Stream 0: a normal and a uniform for each; stream s > 0: noises 2 s - 1 and 2 s.
  INLINE Words words(uint32_t stream) const { return generator.words<false>(0, (uint64_t)counter_row, stream); }

  // Box-Muller makes the normals of both vectors at once: those of the second wait in `spare`.
  INLINE vf normal_difference(int noise) {
    if (call.noise) return read_difference(call.noise, kFloat32, noise * call.rows + row);
    if (vector == 1) return spare[noise];
    const Words from = noise == 0 ? zero : words((uint32_t)(noise + 1) / 2);
    const int at = noise == 0 || noise % 2 ? 0 : 2;
    const Two both = normals(from.w[at], from.w[at + 1]);
    spare[noise] = 1.4142135623730951f * both.b;
    return 1.4142135623730951f * both.a;
  }

  // 1 where class 1 is drawn, else 0.
  INLINE vf hard_sample(vf y, vf small) {
    if (call.x) {
      vf first, second;
      read(call.x, kFloat32, row, first, second);
      return select(second > first, splat(1.0f), splat(0.0f));
    }
    const vi minority = uniform_below_one(zero.w[2 + vector]) < small;
    return select(minority ^ (y > 0.0f), splat(1.0f), splat(0.0f));
  }

  // --- the chain ---

  // redge_cov: the noise becomes z - mean at pure noise; returns 1 / variance, the same for both classes.
  INLINE vf start_matched(const Sigmoid& p, vf& z) const {
    const vf variance = maximum(p.variance, splat(0.1f));
    z *= square_root(variance);
    return 1.0f / variance;
  }

  template <bool Keep>
  INLINE Sigmoid run_chain(vf y0, vf& z, vf inverse_variance, vf& y) {
    const bool matched = call.method == kRedgeCov;
    vf slope1 = {}, slope2 = {};
    Sigmoid s = {};
    for (int j = 0; j < call.num_evaluations; ++j) {
      const Evaluation e = call.evaluations[j];
      vf at = z;
      if (e.reach != kHere && e.reach != kNoise) at += e.a * slope1;
      if (e.reach == kTwoBefore) at += e.b * slope2;
      if (e.reach != kPeek) z = at;
      const vf shift = e.reach == kNoise ? vf{} : e.lambda * at;
      y = matched ? y0 + shift * inverse_variance : y0 + shift;
      s = sigmoid(y);
      slope2 = slope1;
      slope1 = s.tanh;
      if (Keep) {
        variances[j] = s.variance;
        if (matched) shifts[j] = shift;
      }
    }
    return s;
  }

  // (1 - w/2) p0 p1 + (w/2)(x - p)^2: J with a share of the one-sample covariance, as a number.
  static INLINE vf second_order(const Sigmoid& s, vf y, vf x, float weight) {
    const vf d = x - first_probability(y, s.small);
    return (1 - weight / 2) * s.variance + (weight / 2) * d * d;
  }
};

}  // namespace
}  // namespace catreparam
