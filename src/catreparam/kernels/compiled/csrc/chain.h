// The chain of softmaxes on a block: n vectors that hold W rows side by side (vector k = class k of every row) or, Along, one
// row (vector k = classes k W ... k W + W - 1). Sums over classes are sums over vectors, and over lanes too when Along.
// `logits` here are (logits - max) * log2(e), so that a softmax is one fused multiply-add and one 2^y per class.
#pragma once

#include <type_traits>

#include "call.h"
#include "lanes.h"

namespace catreparam {
namespace {

template <bool Along>
INLINE vf over_classes(vf partial) {
  return Along ? splat(sum_of_lanes(partial)) : partial;
}

// The sum over classes of what `part` makes of each vector, two sums side by side.
template <bool Along, typename Part>
INLINE vf sum_over(int n, Part part) {
  vf sum[2] = {};
  int k = 0;
  for (; k + 2 <= n; k += 2) {
    sum[0] += part(k);
    sum[1] += part(k + 1);
  }
  if (k < n) sum[0] += part(k);
  return over_classes<Along>(sum[0] + sum[1]);
}

template <bool Along>
INLINE vf top_over_classes(vf partial) {
  return Along ? splat(top_of_lanes(partial)) : partial;
}

// Unnormalised weights of one softmax: p = weight * inverse.
struct Weights {
  vf* weight;
  vf inverse;
};

INLINE Weights no_weights() { return {nullptr, vf{}}; }

// What the covariance-matched chain needs besides: y = logits + inverse_variance * (lambda z - lambda^2 / 2).
struct Matched {
  const vf* inverse_variance;  // null: the plain chain
  vf* shift;                   // out: lambda z - lambda^2 / 2
};

template <bool Along, int R, bool M>
vf weigh_with(int n, const vf* __restrict logits, vf* __restrict z, const Weights& p1, const Weights& p2, const Evaluation& e,
              Matched matched, vf* __restrict weight) {
  const vf *__restrict before = p1.weight, *__restrict two_before = p2.weight;
  const vf a = e.a * p1.inverse, b = e.b * p2.inverse;
  const float slope = M ? e.lambda : e.lambda * kLog2e, half_square = e.lambda * e.lambda / 2;
  constexpr bool carries = R == kOneBefore || R == kTwoBefore;
  const auto move = [&](int k) __attribute__((always_inline)) {
    vf at = R == kNoise ? vf{} : z[k];
    if (R == kOneBefore || R == kPeek) at += a * before[k];
    if (R == kTwoBefore) at = at + a * before[k] + b * two_before[k];
    if (carries) z[k] = at;
    return at;
  };
  const auto exponent = [&](int k, vf at) __attribute__((always_inline)) {
    if (!M) return R == kNoise ? logits[k] : slope * at + logits[k];
    const vf shift = slope * at - half_square;
    matched.shift[k] = shift;
    return logits[k] + (shift * kLog2e) * matched.inverse_variance[k];
  };
  vf total = sum_over<Along>(n, [&](int k) __attribute__((always_inline)) { return weight[k] = exp2_lanes(exponent(k, move(k))); });
  // The maximum was taken off the logits, not off the exponents: nearly always good enough. Otherwise once more, with it.
  if (__builtin_expect(any(~((total > 0x1p-60f) & (total < 0x1p60f))), 0)) {
    vf top = splat(-INFINITY);
    const auto again = [&](int i) { return exponent(i, carries ? z[i] : move(i)); };
    for (int k = 0; k < n; ++k) top = maximum(top, again(k));
    top = top_over_classes<Along>(top);
    top = select(top > -INFINITY, top, splat(0.0f));
    total = vf{};
    for (int k = 0; k < n; ++k) total += weight[k] = exp2_lanes(again(k) - top);
    total = over_classes<Along>(total);
  }
  return 1.0f / total;
}

// Weights of the softmax of one evaluation; carries z there. Not inlined: forward and backward must round alike.
template <bool Along>
__attribute__((noinline)) Weights weigh(int n, const vf* logits, vf* z, const Weights& p1, const Weights& p2, const Evaluation& e,
                                        Matched matched, vf* out) {
  const auto by_reach = [&](auto m) {
    constexpr bool M = decltype(m)::value;
    switch (e.reach) {
      case kHere:
        return weigh_with<Along, kHere, M>(n, logits, z, p1, p2, e, matched, out);
      case kOneBefore:
        return weigh_with<Along, kOneBefore, M>(n, logits, z, p1, p2, e, matched, out);
      case kTwoBefore:
        return weigh_with<Along, kTwoBefore, M>(n, logits, z, p1, p2, e, matched, out);
      case kPeek:
        return weigh_with<Along, kPeek, M>(n, logits, z, p1, p2, e, matched, out);
      default:
        for (int k = 0; M && k < n; ++k) matched.shift[k] = vf{};
        return weigh_with<Along, kNoise, false>(n, logits, z, p1, p2, e, matched, out);
    }
  };
  return {out, matched.inverse_variance ? by_reach(std::true_type{}) : by_reach(std::false_type{})};
}

// <p, u> for a vector u made on the fly.
template <bool Along, typename Vector>
INLINE vf mean_under(int n, const Weights& p, Vector u) {
  return sum_over<Along>(n, [&](int k) __attribute__((always_inline)) { return p.weight[k] * u(k); }) * p.inverse;
}

}  // namespace
}  // namespace catreparam
