// Forward and backward passes for two classes.
#pragma once

#include "pairs.h"

namespace catreparam {
namespace {

// Gumbel-softmax with the noise given compares the sums themselves, as the naive twin does, ties included.
INLINE vf pair_gumbel_logit(Pairs& p, vf first, vf second) {
  if (!p.call.noise) return (second - first) + logistic(p.zero.w[2 + p.vector]);
  vf noise_first, noise_second;
  p.read(p.call.noise, kFloat32, p.row, noise_first, noise_second);
  return (second + noise_second) - (first + noise_first);
}

INLINE vf pair_mean_soft(Pairs& p, vf y0, vf x) {
  const Call& call = p.call;
  const int noises = call.num_noises, half = call.noise ? noises : (noises + 1) / 2;
  vf mean = {};
  for (int i = 0; i < noises; ++i) {
    const vf noise = p.normal_difference(i < half ? i : i - half);
    const vf y = y0 + call.last * (call.last * (2.0f * x - 1.0f) + (i < half ? noise : -noise));
    mean += first_probability(y, sigmoid(y).small);
  }
  return mean * (1.0f / (float)noises);
}

INLINE void forward_pair(Pairs& p) {
  const Call& call = p.call;
  vf first, second, y, x;
  p.read_logits(first, second);
  const vf y0 = second - first;
  bool soft = !call.hard;
  switch (call.method) {
    case kGumbelSoftmax: {
      y = pair_gumbel_logit(p, first, second);
      const vf tempered = y * (1.0f / call.temperature);
      x = soft ? first_probability(tempered, sigmoid(tempered).small) : select(y > 0.0f, splat(1.0f), splat(0.0f));
      break;
    }
    case kRedge:
    case kRedgeCov:
    case kReindge: {
      vf z = p.normal_difference(0);
      const vf inverse = call.method == kRedgeCov ? p.start_matched(sigmoid(y0), z) : splat(1.0f);
      const Sigmoid q = p.run_chain<false>(y0, z, inverse, y);
      x = soft ? first_probability(y, q.small) : p.hard_sample(y, q.small);
      break;
    }
    case kExactRedge:
      x = p.hard_sample(y0, sigmoid(y0).small);
      if (soft) x = pair_mean_soft(p, y0, x);
      break;
    default:
      x = p.hard_sample(y0, sigmoid(y0).small);
  }
  p.write(1.0f - x, x, call.out, call.dtype, p.row);
}

// The adjoint of the chain, on differences: J(p) halves into one number, hence the 2 in every step of A.
INLINE void pair_adjoint_chain(Pairs& p, bool matched, vf inverse_variance, vf& grad, vf& a, vf& shift_grad) {
  const Call& call = p.call;
  vf kept = {};
  for (int j = call.num_evaluations - 2; j >= 0; --j) {
    const Adjoint at = call.adjoints[j];
    const vf v = p.variances[j] * (at.alpha * a + at.beta * kept);
    const vf step = (2.0f * call.evaluations[j].lambda) * (matched ? v * inverse_variance : v);
    if (matched) shift_grad += v * p.shifts[j];
    if (at.keep == kKeepA) kept = a;
    if (at.keep == kKeepStep) kept = step;
    grad += v;
    a += step;
  }
}

INLINE vf pair_backward_chain(Pairs& p, vf y0) {
  const Call& call = p.call;
  vf z = p.normal_difference(0), y, unused = {};
  const Sigmoid q = p.run_chain<true>(y0, z, splat(1.0f), y);
  vf grad = q.variance, a = (2.0f * call.last) * q.variance;
  if (call.method == kReindge) grad = Pairs::second_order(q, y, p.hard_sample(y, q.small), call.weight);
  pair_adjoint_chain(p, false, splat(1.0f), grad, a, unused);
  return grad;
}

INLINE vf pair_backward_matched(Pairs& p, vf y0) {
  const Call& call = p.call;
  vf z = p.normal_difference(0), y;
  const Sigmoid prior = sigmoid(y0);
  const vf inverse = p.start_matched(prior, z), start = z;
  vf grad = p.run_chain<true>(y0, z, inverse, y).variance;
  vf a = (2.0f * call.last) * grad * inverse, shift_grad = grad * p.shifts[call.num_evaluations - 1];
  pair_adjoint_chain(p, true, inverse, grad, a, shift_grad);
  // d/d variance, summed over the two classes; variance = max(p0 p1, 0.1) moves with p only above the floor.
  const vf to_variance = inverse * (0.25f * a * start - shift_grad * inverse);
  return grad + select(prior.variance >= 0.1f, -prior.variance * prior.tanh * to_variance, splat(0.0f));
}

INLINE vf pair_backward_exact(Pairs& p, vf y0) {
  const Call& call = p.call;
  const int noises = call.num_noises, half = call.noise ? noises : (noises + 1) / 2;
  const float weight = call.hard ? call.weight : 0.0f;
  const Sigmoid prior = sigmoid(y0);
  const vf x = p.hard_sample(y0, prior.small);
  vf total = {};
  for (int i = 0; i < half; ++i) {
    const vf noise = p.normal_difference(i);
    for (int sign = 1; sign >= -1; sign -= 2) {
      if (sign < 0 && (half + i >= noises || call.noise)) break;
      vf z = call.last * (2.0f * x - 1.0f) + (float)sign * noise;
      const vf y = y0 + call.last * z;
      Sigmoid upper = sigmoid(y);
      vf grad = Pairs::second_order(upper, y, x, weight);
      vf a = (2.0f * call.last) * grad;
      for (int j = call.num_intervals - 1; j >= 0; --j) {
        const Interval at = call.intervals[j];
        if (at.step == 0.0f) continue;
        Sigmoid lower = prior;
        if (at.start != 0.0f) {
          const vf predicted = sigmoid(y0 + at.start * (z - at.step * upper.tanh)).tanh;
          z -= (at.step / 2) * (upper.tanh + predicted);
          lower = sigmoid(y0 + at.start * z);
        }
        const vf first = (at.step / 2) * upper.variance * a;
        const vf second = lower.variance * ((at.step / 2) * a + (2.0f * at.step * at.end) * first);
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

INLINE vf pair_backward_reinmax(Pairs& p, const Sigmoid& prior, vf y0, vf x) {
  if (p.call.temperature == 1.0f) return Pairs::second_order(prior, y0, x, 1.0f);
  const vf y = y0 * (1.0f / p.call.temperature);
  const vf middle = 0.5f * (first_probability(y, sigmoid(y).small) + x);
  return 2.0f * middle * (1.0f - middle) - 0.5f * prior.variance;
}

INLINE void backward_pair(Pairs& p) {
  const Call& call = p.call;
  vf first, second, number;
  p.read_logits(first, second);
  const vf y0 = second - first;
  switch (call.method) {
    case kGumbelSoftmax: {
      const float scale = 1.0f / call.temperature;
      number = sigmoid(pair_gumbel_logit(p, first, second) * scale).variance * scale;
      break;
    }
    case kRedge:
    case kReindge:
      number = pair_backward_chain(p, y0);
      break;
    case kRedgeCov:
      number = pair_backward_matched(p, y0);
      break;
    case kExactRedge:
      number = pair_backward_exact(p, y0);
      break;
    case kStraightThrough:
      number = sigmoid(y0).variance;
      break;
    default: {
      const Sigmoid prior = sigmoid(y0);
      const vf x = p.hard_sample(y0, prior.small);
      number = call.method == kReinmax ? pair_backward_reinmax(p, prior, y0, x)
                                       : Pairs::second_order(prior, y0, x, call.weight);
    }
  }
  const vf grad = number * p.read_difference(call.upstream, call.dtype, p.row);
  p.write(-grad, grad, call.out, call.dtype, p.row);
}

}  // namespace
}  // namespace catreparam
