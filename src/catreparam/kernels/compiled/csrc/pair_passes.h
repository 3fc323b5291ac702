// Forward and backward passes for two classes.
#pragma once

#include "pairs.h"

namespace catreparam {
namespace {

struct Result {
  Four x;      // of class 1: the sample
  Four slope;  // the Jacobian's one number
};

// Gumbel-softmax with the noise given compares the sums themselves, the larger logit taken off: as the naive twin does,
// ties included.
INLINE Four pair_gumbel_logit(Pairs& p, Four first, Four second) {
  if (!p.call.noise) return (second - first) + p.logistic_difference();
  Four noise_first, noise_second;
  p.read(p.call.noise, kFloat32, noise_first, noise_second);
  const Four apart = second - first;
  return (minimum(apart, 0.0f) + noise_second) - (minimum(-apart, 0.0f) + noise_first);
}

INLINE Four pair_mean_soft(Pairs& p, Four y0, Four x) {
  const Call& call = p.call;
  const int noises = call.num_noises, half = call.noise ? noises : (noises + 1) / 2;
  Four mean = all(0.0f);
  for (int i = 0; i < noises; ++i) {
    const Four noise = p.normal_difference(i < half ? i : i - half);
    const Four y = y0 + call.last * (call.last * (2.0f * x - 1.0f) + (i < half ? noise : -noise));
    mean += first_probability(y, sigmoid(y).small);
  }
  return mean * (1.0f / (float)noises);
}

// The adjoint of the chain, on differences: J(p) halves into one number, hence the 2 in every step of A.
INLINE void pair_adjoint_chain(Pairs& p, bool matched, Four inverse_variance, Four& grad, Four& a, Four& shift_grad) {
  const Call& call = p.call;
  Four kept = all(0.0f);
  for (int j = call.num_evaluations - 2; j >= 0; --j) {
    const Adjoint at = call.adjoints[j];
    const Four v = p.variances[j] * (at.alpha * a + at.beta * kept);
    const Four step = (2.0f * call.evaluations[j].lambda) * (matched ? v * inverse_variance : v);
    if (matched) shift_grad += v * p.shifts[j];
    if (at.keep == kKeepA) kept = a;
    if (at.keep == kKeepStep) kept = step;
    grad += v;
    a += step;
  }
}

// The sample: the relaxed one where it was asked for, else the hard one.
INLINE Four pair_sample(Pairs& p, Four y, const Sigmoid& s) {
  return p.call.hard ? p.hard_sample(y, s.small) : first_probability(y, s.small);
}

template <bool X, bool Slope>
INLINE Result pair_chain(Pairs& p, Four y0) {
  const Call& call = p.call;
  Four z = p.normal_difference(0), y, unused = all(0.0f);
  const Sigmoid q = p.run_chain<Slope>(y0, z, all(1.0f), y);
  Result out = {};
  if (X) out.x = pair_sample(p, y, q);
  if (!Slope) return out;
  Four grad = q.variance, a = (2.0f * call.last) * q.variance;
  if (call.weight != 0.0f) grad = Pairs::second_order(q, y, p.hard_sample(y, q.small), call.weight);
  pair_adjoint_chain(p, false, all(1.0f), grad, a, unused);
  out.slope = grad;
  return out;
}

template <bool X, bool Slope>
INLINE Result pair_matched(Pairs& p, Four y0) {
  const Call& call = p.call;
  Four z = p.normal_difference(0), y;
  const Sigmoid prior = sigmoid(y0);
  const Four inverse = p.start_matched(prior, z), start = z;
  const Sigmoid q = p.run_chain<Slope>(y0, z, inverse, y);
  Result out = {};
  if (X) out.x = pair_sample(p, y, q);
  if (!Slope) return out;
  Four grad = q.variance;
  Four a = (2.0f * call.last) * grad * inverse, shift_grad = grad * p.shifts[call.num_evaluations - 1];
  pair_adjoint_chain(p, true, inverse, grad, a, shift_grad);
  // d/d variance, summed over the two classes; variance = max(p0 p1, 0.1) moves with p only above the floor.
  const Four to_variance = inverse * (0.25f * a * start - shift_grad * inverse);
  out.slope = grad + select(prior.variance >= 0.1f, -prior.variance * prior.tanh * to_variance, all(0.0f));
  return out;
}

INLINE Four pair_exact_slope(Pairs& p, Four y0, const Sigmoid& prior, Four x) {
  const Call& call = p.call;
  const int noises = call.num_noises, half = call.noise ? noises : (noises + 1) / 2;
  const float weight = call.weight;
  Four total = all(0.0f);
  for (int i = 0; i < half; ++i) {
    const Four noise = p.normal_difference(i);
    for (int sign = 1; sign >= -1; sign -= 2) {
      if (sign < 0 && (half + i >= noises || call.noise)) break;
      Four z = call.last * (2.0f * x - 1.0f) + (float)sign * noise;
      const Four y = y0 + call.last * z;
      Sigmoid upper = sigmoid(y);
      Four grad = Pairs::second_order(upper, y, x, weight);
      Four a = (2.0f * call.last) * grad;
      for (int j = call.num_intervals - 1; j >= 0; --j) {
        const Interval at = call.intervals[j];
        if (at.step == 0.0f) continue;
        Sigmoid lower = prior;
        if (at.start != 0.0f) {
          const Four predicted = sigmoid(y0 + at.start * (z - at.step * upper.tanh)).tanh;
          z -= (at.step / 2) * (upper.tanh + predicted);
          lower = sigmoid(y0 + at.start * z);
        }
        const Four first = (at.step / 2) * upper.variance * a;
        const Four second = lower.variance * ((at.step / 2) * a + (2.0f * at.step * at.end) * first);
        grad += first + second;
        a += (2.0f * at.end) * first + (2.0f * at.start) * second;
        upper = lower;
        if (at.start == 0.0f) break;
      }
      total += grad;
    }
  }
  return total * (1.0f / (float)noises);
}

INLINE Four pair_direct_slope(Pairs& p, const Sigmoid& prior, Four y0, Four x) {
  if (p.call.weight == 0.0f) return prior.variance;
  if (p.call.temperature == 1.0f) return Pairs::second_order(prior, y0, x, p.call.weight);
  const Four y = y0 * (1.0f / p.call.temperature);
  const Four middle = 0.5f * (first_probability(y, sigmoid(y).small) + x);
  return 2.0f * middle * (1.0f - middle) - 0.5f * prior.variance;
}

template <bool X, bool Slope>
INLINE Result pair_gumbel(Pairs& p, Four first, Four second) {
  const float scale = 1.0f / p.call.temperature;
  const Four y = pair_gumbel_logit(p, first, second), tempered = y * scale;
  const Sigmoid s = sigmoid(tempered);
  Result out = {};
  if (X) out.x = p.call.hard ? select(y > 0.0f, 1.0f, 0.0f) : first_probability(tempered, s.small);
  if (Slope) out.slope = s.variance * scale;
  return out;
}

// The rules whose sample is drawn from softmax(logits) itself.
template <bool X, bool Slope>
INLINE Result pair_from_prior(Pairs& p, Four y0) {
  const Call& call = p.call;
  const Sigmoid prior = sigmoid(y0);
  const bool drawn = X || call.rule != kDirect || call.weight != 0.0f;
  const Four x = drawn ? p.hard_sample(y0, prior.small) : all(0.0f);
  Result out = {};
  if (X) out.x = call.rule == kSweep && !call.hard ? pair_mean_soft(p, y0, x) : x;
  if (!Slope) return out;
  out.slope = call.rule == kSweep ? pair_exact_slope(p, y0, prior, x) : pair_direct_slope(p, prior, y0, x);
  return out;
}

template <bool X, bool Slope>
INLINE Result pair_result(Pairs& p) {
  Four first, second;
  p.read_logits(first, second);
  const Four y0 = second - first;
  switch (p.call.rule) {
    case kGumbel:
      return pair_gumbel<X, Slope>(p, first, second);
    case kChain:
      return pair_chain<X, Slope>(p, y0);
    case kMatched:
      return pair_matched<X, Slope>(p, y0);
    default:
      return pair_from_prior<X, Slope>(p, y0);
  }
}

template <bool Keep>
INLINE void forward_pair(Pairs& p) {
  const Result result = pair_result<true, Keep>(p);
  p.write(1.0f - result.x, result.x, p.call.out, p.call.dtype, 0, p.call.hard);
  if (Keep) p.keep(result.slope);
}

template <bool Kept>
INLINE void backward_pair(Pairs& p) {
  const Four slope = Kept ? p.kept() : pair_result<false, true>(p).slope;
  const Four grad = slope * p.read_difference(p.call.upstream, p.call.dtype);
  p.write(-grad, grad, p.call.out, p.call.dtype);
}

}  // namespace
}  // namespace catreparam
