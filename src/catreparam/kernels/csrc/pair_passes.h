// Forward and backward passes for two classes.
#pragma once

#include "pairs.h"

namespace catreparam {
namespace {

// Gumbel-softmax with the noise given compares the sums themselves, as the naive twin does, ties included.
INLINE Two pair_gumbel_logit(Pairs& p, Two first, Two second) {
  if (!p.call.noise) return (second - first) + p.logistic_difference();
  Two noise_first, noise_second;
  p.read(p.call.noise, kFloat32, noise_first, noise_second);
  return (second + noise_second) - (first + noise_first);
}

INLINE Two pair_mean_soft(Pairs& p, Two y0, Two x) {
  const Call& call = p.call;
  const int noises = call.num_noises, half = call.noise ? noises : (noises + 1) / 2;
  Two mean = both(0.0f);
  for (int i = 0; i < noises; ++i) {
    const Two noise = p.normal_difference(i < half ? i : i - half);
    const Two y = y0 + call.last * (call.last * (2.0f * x - 1.0f) + (i < half ? noise : -noise));
    mean += first_probability(y, sigmoid(y).small);
  }
  return mean * (1.0f / (float)noises);
}

INLINE void forward_pair(Pairs& p) {
  const Call& call = p.call;
  Two first, second, y, x;
  p.read_logits(first, second);
  const Two y0 = second - first;
  bool soft = !call.hard;
  switch (call.method) {
    case kGumbelSoftmax: {
      y = pair_gumbel_logit(p, first, second);
      const Two tempered = y * (1.0f / call.temperature);
      x = soft ? first_probability(tempered, sigmoid(tempered).small) : select(y > 0.0f, 1.0f, 0.0f);
      break;
    }
    case kRedge:
    case kRedgeCov:
    case kReindge: {
      Two z = p.normal_difference(0);
      const Two inverse = call.method == kRedgeCov ? p.start_matched(sigmoid(y0), z) : both(1.0f);
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
  p.write(1.0f - x, x, call.out, call.dtype);
}

// The adjoint of the chain, on differences: J(p) halves into one number, hence the 2 in every step of A.
INLINE void pair_adjoint_chain(Pairs& p, bool matched, Two inverse_variance, Two& grad, Two& a, Two& shift_grad) {
  const Call& call = p.call;
  Two kept = both(0.0f);
  for (int j = call.num_evaluations - 2; j >= 0; --j) {
    const Adjoint at = call.adjoints[j];
    const Two v = p.variances[j] * (at.alpha * a + at.beta * kept);
    const Two step = (2.0f * call.evaluations[j].lambda) * (matched ? v * inverse_variance : v);
    if (matched) shift_grad += v * p.shifts[j];
    if (at.keep == kKeepA) kept = a;
    if (at.keep == kKeepStep) kept = step;
    grad += v;
    a += step;
  }
}

INLINE Two pair_backward_chain(Pairs& p, Two y0) {
  const Call& call = p.call;
  Two z = p.normal_difference(0), y, unused = both(0.0f);
  const Sigmoid q = p.run_chain<true>(y0, z, both(1.0f), y);
  Two grad = q.variance, a = (2.0f * call.last) * q.variance;
  if (call.method == kReindge) grad = Pairs::second_order(q, y, p.hard_sample(y, q.small), call.weight);
  pair_adjoint_chain(p, false, both(1.0f), grad, a, unused);
  return grad;
}

INLINE Two pair_backward_matched(Pairs& p, Two y0) {
  const Call& call = p.call;
  Two z = p.normal_difference(0), y;
  const Sigmoid prior = sigmoid(y0);
  const Two inverse = p.start_matched(prior, z), start = z;
  Two grad = p.run_chain<true>(y0, z, inverse, y).variance;
  Two a = (2.0f * call.last) * grad * inverse, shift_grad = grad * p.shifts[call.num_evaluations - 1];
  pair_adjoint_chain(p, true, inverse, grad, a, shift_grad);
  // d/d variance, summed over the two classes; variance = max(p0 p1, 0.1) moves with p only above the floor.
  const Two to_variance = inverse * (0.25f * a * start - shift_grad * inverse);
  return grad + select(prior.variance >= 0.1f, -prior.variance * prior.tanh * to_variance, both(0.0f));
}

INLINE Two pair_backward_exact(Pairs& p, Two y0) {
  const Call& call = p.call;
  const int noises = call.num_noises, half = call.noise ? noises : (noises + 1) / 2;
  const float weight = call.hard ? call.weight : 0.0f;
  const Sigmoid prior = sigmoid(y0);
  const Two x = p.hard_sample(y0, prior.small);
  Two total = both(0.0f);
  for (int i = 0; i < half; ++i) {
    const Two noise = p.normal_difference(i);
    for (int sign = 1; sign >= -1; sign -= 2) {
      if (sign < 0 && (half + i >= noises || call.noise)) break;
      Two z = call.last * (2.0f * x - 1.0f) + (float)sign * noise;
      const Two y = y0 + call.last * z;
      Sigmoid upper = sigmoid(y);
      Two grad = Pairs::second_order(upper, y, x, weight);
      Two a = (2.0f * call.last) * grad;
      for (int j = call.num_intervals - 1; j >= 0; --j) {
        const Interval at = call.intervals[j];
        if (at.step == 0.0f) continue;
        Sigmoid lower = prior;
        if (at.start != 0.0f) {
          const Two predicted = sigmoid(y0 + at.start * (z - at.step * upper.tanh)).tanh;
          z -= (at.step / 2) * (upper.tanh + predicted);
          lower = sigmoid(y0 + at.start * z);
        }
        const Two first = (at.step / 2) * upper.variance * a;
        const Two second = lower.variance * ((at.step / 2) * a + (2.0f * at.step * at.end) * first);
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

INLINE Two pair_backward_reinmax(Pairs& p, const Sigmoid& prior, Two y0, Two x) {
  if (p.call.temperature == 1.0f) return Pairs::second_order(prior, y0, x, 1.0f);
  const Two y = y0 * (1.0f / p.call.temperature);
  const Two middle = 0.5f * (first_probability(y, sigmoid(y).small) + x);
  return 2.0f * middle * (1.0f - middle) - 0.5f * prior.variance;
}

INLINE void backward_pair(Pairs& p) {
  const Call& call = p.call;
  Two first, second, number;
  p.read_logits(first, second);
  const Two y0 = second - first;
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
      const Two x = p.hard_sample(y0, prior.small);
      number = call.method == kReinmax ? pair_backward_reinmax(p, prior, y0, x)
                                       : Pairs::second_order(prior, y0, x, call.weight);
    }
  }
  const Two grad = number * p.read_difference(call.upstream, call.dtype);
  p.write(-grad, grad, call.out, call.dtype);
}

}  // namespace
}  // namespace catreparam
