// Two classes: everything is a function of the difference of the logits, and every Jacobian is one number, the gradient
// being -/+ that number times the difference of the upstream gradient. 4 W rows at a time: twice W and the W sixteen rows
// on, which share their Philox blocks.
#pragma once

#include "call.h"
#include "rows_io.h"
#include "four.h"

namespace catreparam {
namespace {

struct Sigmoid {  // of y, for softmax([0, y])
  Four small;     // probability of the less likely class
  Four tanh;      // p1 - p0
  Four variance;  // p0 p1
};

INLINE Sigmoid sigmoid(Four y) {
  const Four e = exp2_lanes(absolute(y) * -kLog2e);
  const Four inverse = 1.0f / (1.0f + e), small = e * inverse;
  return {small, with_sign(inverse - small, y), small * inverse};
}

INLINE Four first_probability(Four y, Four small) { return select(y > 0.0f, 1.0f - small, small); }  // of class 1

struct Pairs {
  const Call& call;
  const Generator generator;
  float* staging;   // [4 W]
  Four* variances;  // [num_evaluations]
  Four* shifts;     // [num_evaluations], redge_cov only
  Words zero[2];    // stream 0: of the first two vectors, of the last two
  int64_t counter_row[2] = {0, 0};
  int64_t row[4] = {0, 0, 0, 0};
  int valid[4] = {W, W, W, W};  // rows that exist of each vector; 0: none
  int32_t flags = 0;

  static int64_t bytes(const Call& call) { return 2 * call.num_evaluations * (int64_t)sizeof(Four) + 16 * W + 64; }

  Pairs(const Call& c, void* memory) : call(c), generator(c.seed), staging(static_cast<float*>(memory)) {
    variances = reinterpret_cast<Four*>(staging + 4 * W);
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
  INLINE void read(const void* from, Dtype dtype, Four& first, Four& second, int64_t offset = 0) {
    read_one(from, dtype, offset + row[0], valid[0], first.a, second.a);
    read_one(from, dtype, offset + row[1], valid[1], first.b, second.b);
    read_one(from, dtype, offset + row[2], valid[2], first.c, second.c);
    read_one(from, dtype, offset + row[3], valid[3], first.d, second.d);
  }

  INLINE Four read_difference(const void* from, Dtype dtype, int64_t offset = 0) {
    Four first, second;
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
      exact ? store_halves(half, (vu)a >> 16, (vu)b >> 16) : store_halves(half, round_to_bfloat(a), round_to_bfloat(b));
      return;
    }
    store(staging, a);
    store(staging + W, b);
    narrow(staging, dtype, 2 * first_row, 2 * rows, to);
  }

  INLINE void write(Four first, Four second, void* to, Dtype dtype, int64_t offset = 0, bool exact = false) {
    write_one(first.a, second.a, to, dtype, offset + row[0], valid[0], exact);
    write_one(first.b, second.b, to, dtype, offset + row[1], valid[1], exact);
    write_one(first.c, second.c, to, dtype, offset + row[2], valid[2], exact);
    write_one(first.d, second.d, to, dtype, offset + row[3], valid[3], exact);
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

  INLINE void read_logits(Four& first, Four& second) {
    read(call.logits, call.dtype, first, second);
    check(first.a, second.a);
    check(first.b, second.b);
    check(first.c, second.c);
    check(first.d, second.d);
  }

  // One number a row, left by forward for backward; whole vectors, rows that do not exist included.
  INLINE void keep(Four slope) {
    if (valid[0] > 0) store(call.kept + row[0], slope.a);
    if (valid[1] > 0) store(call.kept + row[1], slope.b);
    if (valid[2] > 0) store(call.kept + row[2], slope.c);
    if (valid[3] > 0) store(call.kept + row[3], slope.d);
  }

  INLINE Four kept() const {
    return {load(call.kept + row[0]), load(call.kept + row[1]), load(call.kept + row[2]), load(call.kept + row[3])};
  }

  // --- noise: differences, class 1 minus class 0 ---

  // Stream 0: a normal and a uniform for each of two vectors; stream s > 0: noises 2 s - 1 and 2 s.
  INLINE Words words(int half, uint32_t stream) const { return generator.words<false>(0, (uint64_t)counter_row[half], stream); }

  INLINE Two normals_of(int half, int noise) const {
    if (noise == 0) return normals(zero[half].w[0], zero[half].w[1]);
    const Words more = words(half, (uint32_t)(noise + 1) / 2);
    return noise % 2 ? normals(more.w[0], more.w[1]) : normals(more.w[2], more.w[3]);
  }

  INLINE Four normal_difference(int noise) {
    if (call.noise) return read_difference(call.noise, kFloat32, noise * call.rows);
    return 1.4142135623730951f * join(normals_of(0, noise), normals_of(1, noise));
  }

  // Two words of stream 0 become normals; the other two are left, one a vector: here in steps of 2^-24, plus `part`.
  INLINE Four in_steps(float part) const {
    const vu words[4] = {zero[0].w[2], zero[0].w[3], zero[1].w[2], zero[1].w[3]};
    const Four steps = {to_float((vi)(words[0] >> 8)), to_float((vi)(words[1] >> 8)), to_float((vi)(words[2] >> 8)),
                        to_float((vi)(words[3] >> 8))};
    const vf least = minimum(minimum(steps.a, steps.b), minimum(steps.c, steps.d));
    if (__builtin_expect(any(least < kTail * 0x1p24f), 0)) return in_steps_with_tail(steps, part);
    return part + steps;
  }

  __attribute__((noinline)) Four in_steps_with_tail(Four steps, float part) const {
    const Words more[2] = {words(0, kTailStream), words(1, kTailStream)};
    const Four fine = {fraction(more[0].w[2]), fraction(more[0].w[3]), fraction(more[1].w[2]), fraction(more[1].w[3])};
    return steps + select(steps >= kTail * 0x1p24f, all(part), fine);
  }

  INLINE Four logistic_difference() const {
    const Four small = in_steps(0.5f) * 0x1p-25f;
    return {logistic(small.a, zero[0].w[2]), logistic(small.b, zero[0].w[3]), logistic(small.c, zero[1].w[2]),
            logistic(small.d, zero[1].w[3])};
  }

  INLINE Four uniforms() const { return in_steps(0.0f) * 0x1p-24f; }

  // 1 where class 1 is drawn, else 0.
  INLINE Four hard_sample(Four y, Four small) {
    if (call.x) {
      Four first, second;
      read(call.x, kFloat32, first, second);
      return select(second > first, 1.0f, 0.0f);
    }
    return select((small > uniforms()) ^ (y > 0.0f), 1.0f, 0.0f);
  }

  // --- the chain ---

  // redge_cov: the noise becomes z - mean at pure noise; returns 1 / variance, the same for both classes.
  INLINE Four start_matched(const Sigmoid& p, Four& z) const {
    const Four variance = maximum(p.variance, 0.1f);
    z *= square_root(variance);
    return 1.0f / variance;
  }

  template <bool Keep>
  INLINE Sigmoid run_chain(Four y0, Four& z, Four inverse_variance, Four& y) {
    const bool matched = call.rule == kMatched;
    Four slope1 = all(0.0f), slope2 = all(0.0f);
    Sigmoid s = {};
    for (int j = 0; j < call.num_evaluations; ++j) {
      const Evaluation e = call.evaluations[j];
      Four at = z;
      if (e.reach != kHere && e.reach != kNoise) at += e.a * slope1;
      if (e.reach == kTwoBefore) at += e.b * slope2;
      if (e.reach != kPeek) z = at;
      const Four shift = e.reach == kNoise ? all(0.0f) : e.lambda * at;
      y = matched ? y0 + shift * inverse_variance : y0 + shift;
      s = sigmoid(y);
      slope2 = slope1;
      slope1 = s.tanh;
      if (Keep) {
        put(variances + j, s.variance);
        if (matched) put(shifts + j, shift);
      }
    }
    return s;
  }

  // (1 - w/2) p0 p1 + (w/2)(x - p)^2: J with a share of the one-sample covariance, as a number.
  static INLINE Four second_order(const Sigmoid& s, Four y, Four x, float weight) {
    const Four d = x - first_probability(y, s.small);
    return (1 - weight / 2) * s.variance + (weight / 2) * d * d;
  }
};

}  // namespace
}  // namespace catreparam
