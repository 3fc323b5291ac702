// Exact-law ReDGE: z at lambda_1 is drawn given x, the diffusion is swept backwards with the adjoint on the way.
// Nothing of the trajectory is stored; the lower end of an interval is the upper end of the next.
#pragma once

#include "backward.h"

namespace catreparam {
namespace {

// Both halves of one interval's adjoint (a Heun step carries the tangent; this is its transpose).
template <bool Along>
vf interval_adjoint(Block<Along>& b, const Interval& at, const Weights& upper, const Weights& lower, vf mean,
                    vf* __restrict total) {
  const float half = at.step / 2, end = at.end, step = at.step, start = at.start;
  const vf *upper_weight = upper.weight, *lower_weight = lower.weight;
  vf *__restrict adjoint = b.adjoint, *__restrict input = b.kept;
  const vf upper_inverse = upper.inverse, lower_inverse = lower.inverse;
  const vf lower_mean = lower_inverse * sum_over<Along>(b.n, [&](int k) __attribute__((always_inline)) {
    const vf a = adjoint[k];
    const vf first = half * (upper_weight[k] * upper_inverse) * (a - mean);
    const vf into = half * a + (step * end) * first;
    total[k] += first;
    input[k] = into;
    adjoint[k] = a + end * first;
    return lower_weight[k] * into;
  });
  // <lower, adjoint>: the next interval's mean
  return lower_inverse * sum_over<Along>(b.n, [&](int k) __attribute__((always_inline)) {
    const vf second = lower_weight[k] * lower_inverse * (input[k] - lower_mean);
    total[k] += second;
    const vf a = adjoint[k] + start * second;
    adjoint[k] = a;
    return lower_weight[k] * a;
  });
}

template <bool Along>
void sweep(Block<Along>& b, Weights upper, const Weights& p, vf* total) {
  const Call& call = b.call;
  vf mean = mean_under<Along>(b.n, upper, [&](int k) { return b.adjoint[k]; });
  for (int i = call.num_intervals - 1; i >= 0; --i) {
    const Interval at = call.intervals[i];
    if (at.step == 0.0f) continue;
    if (at.start == 0.0f) {  // at lambda = 0 every softmax is p, wherever z is; nothing lies below
      interval_adjoint(b, at, upper, p, mean, total);
      return;
    }
    vf* free_ring = upper.weight == b.ring[1] ? b.ring[2] : b.ring[1];
    const Evaluation peek = {kPeek, at.start, -at.step, 0}, step = {kTwoBefore, at.start, -at.step / 2, -at.step / 2};
    const Weights predicted = weigh<Along>(b.n, b.logits, b.z, upper, upper, peek, {nullptr, nullptr}, b.ring[3]);
    const Weights lower = weigh<Along>(b.n, b.logits, b.z, upper, predicted, step, {nullptr, nullptr}, free_ring);
    mean = interval_adjoint(b, at, upper, lower, mean, total);
    upper = lower;
  }
}

template <bool Along>
void backward_exact(Block<Along>& b) {
  const Call& call = b.call;
  const int noises = call.num_noises, half = call.noise ? noises : (noises + 1) / 2;
  const Weights p = b.at_noise(b.ring[0]);
  const vi hot = b.hard_sample(p);
  const float scale = 1.0f / (float)noises, weight = call.weight;
  vf *total = b.matched_grad, *noise = b.matched_start;
  for (int k = 0; k < b.n; ++k) total[k] = vf{};
  const vf hot_upstream = b.at_hot(hot, b.upstream);
  for (int i = 0; i < half; ++i) {
    b.read_noise(i, noise);
    for (int sign = 1; sign >= -1; sign -= 2) {
      if (sign < 0 && half + i >= noises) break;
      for (int k = 0; k < b.n; ++k) b.z[k] = (float)sign * noise[k] + call.last * b.one_hot(hot, k);
      const Weights q =
          weigh<Along>(b.n, b.logits, b.z, no_weights(), no_weights(), {kHere, call.last, 0, 0}, {nullptr, nullptr}, b.ring[1]);
      const vf mean = mean_under<Along>(b.n, q, [&](int k) { return b.upstream[k]; });
      const vf one_sample = (scale * weight / 2) * (hot_upstream - mean);
      const float population = scale * (1 - weight / 2);
      for (int k = 0; k < b.n; ++k) {
        const vf probability = q.weight[k] * q.inverse;
        vf direct = population * probability * (b.upstream[k] - mean);
        if (weight != 0.0f) direct += one_sample * (b.one_hot(hot, k) - probability);
        total[k] += direct;
        b.adjoint[k] = call.last * direct;
      }
      sweep(b, q, p, total);
      if (call.noise) break;
    }
  }
  for (int k = 0; k < b.n; ++k) b.grad[k] = total[k];
}

template <bool Along>
void backward_block(Block<Along>& b) {
  const Call& call = b.call;
  if (!call.kept) b.read_logits(call.rule == kGumbel);  // what is kept is the chain itself
  b.read(call.upstream, call.dtype, b.row, call.rows, 0.0f, b.upstream);
  switch (call.rule) {
    case kGumbel:
      backward_gumbel(b);
      break;
    case kChain:
    case kMatched:
      backward_chain(b);
      break;
    case kSweep:
      backward_exact(b);
      break;
    case kDirect:
      if (call.weight != 0.0f && call.temperature != 1.0f) {
        backward_tempered(b);
      } else {
        direct_term(b, b.at_noise(b.ring[0]), call.weight, 0.0f, false, 1.0f);
      }
  }
  b.write(b.grad, call.dtype, b.row);
}

}  // namespace
}  // namespace catreparam
