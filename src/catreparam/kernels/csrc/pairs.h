// Two classes: everything is a function of the difference of the logits, and every Jacobian is one number, the gradient
// being -/+ that number times the difference of the upstream gradient. 2 W rows at a time: W and the W sixteen rows on,
// which share their Philox blocks.
#pragma once

#include "call.h"
#include "rows_io.h"
#include "two.h"

namespace catreparam {
namespace {

struct Sigmoid {  // of y, for softmax([0, y])
  Two small;      // probability of the less likely class
  Two tanh;       // p1 - p0
  Two variance;   // p0 p1
};

INLINE Sigmoid sigmoid(Two y) {
  const Two e = exp2_lanes(absolute(y) * -kLog2e);
  const Two inverse = 1.0f / (1.0f + e), small = e * inverse;
  return {small, with_sign(inverse - small, y), small * inverse};
}

INLINE Two first_probability(Two y, Two small) { return select(y > 0.0f, 1.0f - small, small); }  // of class 1

struct Pairs {
  const Call& call;
  const Generator generator;
  float* staging;   // [4 W]
  Two* variances;   // [num_evaluations]
  Two* shifts;      // [num_evaluations], redge_cov only
  Words zero;       // stream 0
  int64_t counter_row = 0;
  int64_t row[2] = {0, 0};
  int valid[2] = {W, W};  // rows that exist of each vector; 0: none
  int32_t flags = 0;

  static int64_t bytes(const Call& call) { return 2 * call.num_evaluations * (int64_t)sizeof(Two) + 16 * W + 64; }

  Pairs(const Call& c, void* memory) : call(c), generator(c.seed), staging(static_cast<float*>(memory)) {
    variances = reinterpret_cast<Two*>(staging + 4 * W);
    shifts = variances + c.num_evaluations;
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

  INLINE void read_one(const void* from, Dtype dtype, int64_t first_row, int rows, vf& first, vf& second) {
    const float* at = static_cast<const float*>(from) + 2 * first_row;
    if (dtype == kBfloat16 && rows == W) {
      const uint16_t* half = static_cast<const uint16_t*>(from) + 2 * first_row;
      split(load_bfloat(half), load_bfloat(half + W), first, second, std::make_integer_sequence<int, W>());
      return;
    }
    if (dtype != kFloat32 || rows < W) {
      std::memset(staging, 0, 8 * W);
      widen(from, dtype, 2 * first_row, 2 * rows, staging);
      at = staging;
    }
    split(load(at), load(at + W), first, second, std::make_integer_sequence<int, W>());
  }

  // `offset`: rows before this noise's own, when there are several.
  INLINE void read(const void* from, Dtype dtype, Two& first, Two& second, int64_t offset = 0) {
    read_one(from, dtype, offset + row[0], valid[0], first.a, second.a);
    read_one(from, dtype, offset + row[1], valid[1], first.b, second.b);
  }

  INLINE Two read_difference(const void* from, Dtype dtype, int64_t offset = 0) {
    Two first, second;
    read(from, dtype, first, second, offset);
    return second - first;
  }

  // `exact`: the values are 0 and 1, which need no rounding to bfloat.
  INLINE void write_one(vf first, vf second, void* to, Dtype dtype, int64_t first_row, int rows, bool exact) {
    vf a, b;
    merge(first, second, a, b, std::make_integer_sequence<int, W>());
    if (dtype == kFloat32 && rows == W) {
      float* at = static_cast<float*>(to) + 2 * first_row;
      store(at, a);
      store(at + W, b);
      return;
    }
    if (dtype == kBfloat16 && rows == W) {
      uint16_t* half = static_cast<uint16_t*>(to) + 2 * first_row;
      if (exact) {
        cut_to_bfloat(half, a);
        cut_to_bfloat(half + W, b);
        return;
      }
      store_bfloat(half, a);
      store_bfloat(half + W, b);
      return;
    }
    store(staging, a);
    store(staging + W, b);
    narrow(staging, dtype, 2 * first_row, 2 * rows, to);
  }

  INLINE void write(Two first, Two second, void* to, Dtype dtype, int64_t offset = 0, bool exact = false) {
    write_one(first.a, second.a, to, dtype, offset + row[0], valid[0], exact);
    write_one(first.b, second.b, to, dtype, offset + row[1], valid[1], exact);
  }

  INLINE void check(vf first, vf second) {
    const vf top = maximum(first, second);
    const vi nan = (first != first) | (second != second);
    if (__builtin_expect(any(nan | ~((top > -INFINITY) & (top < INFINITY))), 0)) {
      flags |= any(nan) ? kFlagNan : 0;
      flags |= any((first == INFINITY) | (second == INFINITY)) ? kFlagInfinite : 0;
      flags |= any((first == -INFINITY) & (second == -INFINITY)) ? kFlagEmpty : 0;
    }
  }

  INLINE void read_logits(Two& first, Two& second) {
    read(call.logits, call.dtype, first, second);
    check(first.a, second.a);
    check(first.b, second.b);
  }

  // One number a row, left by forward for backward; whole vectors, rows that do not exist included.
  INLINE void keep(Two slope) {
    store(call.kept + row[0], slope.a);
    if (valid[1] > 0) store(call.kept + row[1], slope.b);
  }

  INLINE Two kept() const { return {load(call.kept + row[0]), load(call.kept + row[1])}; }

  // --- noise: differences, class 1 minus class 0 ---

  // Stream 0: a normal and a uniform for each of the two vectors; stream s > 0: noises 2 s - 1 and 2 s.
  INLINE Words words(uint32_t stream) const { return generator.words<false>(0, (uint64_t)counter_row, stream); }

  INLINE Two normal_difference(int noise) {
    if (call.noise) return read_difference(call.noise, kFloat32, noise * call.rows);
    const Words from = noise == 0 ? zero : words((uint32_t)(noise + 1) / 2);
    const int at = noise == 0 || noise % 2 ? 0 : 2;
    return 1.4142135623730951f * normals(from.w[at], from.w[at + 1]);
  }

  INLINE Two logistic_difference() const { return logistic(zero.w[2], zero.w[3]); }

  // 1 where class 1 is drawn, else 0.
  INLINE Two hard_sample(Two y, Two small) {
    if (call.x) {
      Two first, second;
      read(call.x, kFloat32, first, second);
      return select(second > first, 1.0f, 0.0f);
    }
    const Two uniforms = {uniform_below_one(zero.w[2]), uniform_below_one(zero.w[3])};
    return select((small > uniforms) ^ (y > 0.0f), 1.0f, 0.0f);
  }

  // --- the chain ---

  // redge_cov: the noise becomes z - mean at pure noise; returns 1 / variance, the same for both classes.
  INLINE Two start_matched(const Sigmoid& p, Two& z) const {
    const Two variance = maximum(p.variance, 0.1f);
    z *= square_root(variance);
    return 1.0f / variance;
  }

  template <bool Keep>
  INLINE Sigmoid run_chain(Two y0, Two& z, Two inverse_variance, Two& y) {
    const bool matched = call.method == kRedgeCov;
    Two slope1 = both(0.0f), slope2 = both(0.0f);
    Sigmoid s = {};
    for (int j = 0; j < call.num_evaluations; ++j) {
      const Evaluation e = call.evaluations[j];
      Two at = z;
      if (e.reach != kHere && e.reach != kNoise) at += e.a * slope1;
      if (e.reach == kTwoBefore) at += e.b * slope2;
      if (e.reach != kPeek) z = at;
      const Two shift = e.reach == kNoise ? both(0.0f) : e.lambda * at;
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
  static INLINE Two second_order(const Sigmoid& s, Two y, Two x, float weight) {
    const Two d = x - first_probability(y, s.small);
    return (1 - weight / 2) * s.variance + (weight / 2) * d * d;
  }
};

}  // namespace
}  // namespace catreparam
