// Backward pass of a block: everything is made again from (logits, seed), then the adjoint of the chain.
// J(p) u = p (u - <p, u>) is the covariance of a one-hot draw applied to u.
#pragma once

#include "forward.h"

namespace catreparam {
namespace {

// grad = (1 - w/2) J(p) g + (w/2)(x - p) <x - p, g>; adjoint = slope * the same with w = 0 or, `both`, with this w.
template <bool Along>
void direct_term(Block<Along>& b, const Weights& p, float weight, float slope, bool both, float scale) {
  const vf mean = mean_under<Along>(b.n, p, [&](int k) { return b.upstream[k]; });
  if (weight == 0.0f) {
    for (int k = 0; k < b.n; ++k) {
      b.grad[k] = scale * (p.weight[k] * p.inverse) * (b.upstream[k] - mean);
      b.adjoint[k] = slope * b.grad[k];
    }
    return;
  }
  const vi hot = b.hard_sample(p);
  const vf one_sample = (scale * weight / 2) * (b.at_hot(hot, b.upstream) - mean);
  const float population = scale * (1 - weight / 2);
  for (int k = 0; k < b.n; ++k) {
    const vf probability = p.weight[k] * p.inverse, centred = probability * (b.upstream[k] - mean);
    b.grad[k] = population * centred + one_sample * (b.one_hot(hot, k) - probability);
    b.adjoint[k] = slope * (both ? b.grad[k] : centred);
  }
}

// One evaluation of the chain, backwards. Returns what the evaluation before it needs: sum of its weights times its
// input.
template <bool Along, Keep K, bool Second, bool M>
vf adjoint_step(Block<Along>& b, int j, vf mean) {
  const Adjoint now = b.call.adjoints[j], next = b.call.adjoints[j > 0 ? j - 1 : 0];
  const vf *__restrict weight = b.stored + (int64_t)j * b.n, *weight_next = b.stored + (int64_t)(j > 0 ? j - 1 : 0) * b.n;
  const vf *__restrict shift = b.shift + (int64_t)(M ? j : 0) * b.n, *__restrict matched_inverse = b.matched_inverse;
  vf *__restrict grad = b.grad, *__restrict adjoint = b.adjoint, *__restrict saved = b.kept;
  vf* __restrict matched_grad = b.matched_grad;
  const vf inverse = b.inverses[j];
  const float lambda = b.call.evaluations[j].lambda;
  return sum_over<Along>(b.n, [&](int k) __attribute__((always_inline)) {
    const vf a = adjoint[k];
    const vf input = Second ? now.alpha * a + now.beta * saved[k] : now.alpha * a;
    const vf v = weight[k] * inverse * (input - mean);
    grad[k] += v;
    const vf step = M ? lambda * v * matched_inverse[k] : lambda * v;
    if (M) matched_grad[k] += v * shift[k];
    const vf a_next = a + step;
    adjoint[k] = a_next;
    vf kept = Second ? saved[k] : vf{};
    if (K == kKeepA) saved[k] = kept = a;
    if (K == kKeepStep) saved[k] = kept = step;
    return weight_next[k] * (Second ? next.alpha * a_next + next.beta * kept : next.alpha * a_next);
  });
}

template <bool Along, bool M>
void adjoint_chain(Block<Along>& b) {
  const Call& call = b.call;
  int j = call.num_evaluations - 2;
  if (j < 0) return;
  bool second = false;
  for (int i = 0; i <= j; ++i) second |= call.adjoints[i].keep != kKeepNothing;
  if (second)
    for (int k = 0; k < b.n; ++k) b.kept[k] = vf{};
  const float alpha = call.adjoints[j].alpha;
  const Weights last = {b.stored + (int64_t)j * b.n, b.inverses[j]};
  vf mean = mean_under<Along>(b.n, last, [&](int k) { return alpha * b.adjoint[k]; });
  for (; j >= 0; --j) {
    vf sum;
    if (!second) {
      sum = adjoint_step<Along, kKeepNothing, false, M>(b, j, mean);
    } else if (call.adjoints[j].keep == kKeepA) {
      sum = adjoint_step<Along, kKeepA, true, M>(b, j, mean);
    } else if (call.adjoints[j].keep == kKeepStep) {
      sum = adjoint_step<Along, kKeepStep, true, M>(b, j, mean);
    } else {
      sum = adjoint_step<Along, kKeepNothing, true, M>(b, j, mean);
    }
    if (j > 0) mean = sum * b.inverses[j - 1];
  }
}

// The covariance-matched chain: the last evaluation's share of the variances' gradient, and its adjoint in units of z.
template <bool Along>
void begin_matched(Block<Along>& b) {
  const vf* shift = b.shift + (int64_t)(b.call.num_evaluations - 1) * b.n;
  for (int k = 0; k < b.n; ++k) {
    b.matched_grad[k] = b.grad[k] * shift[k];
    b.adjoint[k] *= b.matched_inverse[k];
  }
}

// From the variances to the probabilities they are made of, to the logits.
template <bool Along>
void end_matched(Block<Along>& b) {
  for (int k = 0; k < b.n; ++k) {
    const vf inverse = b.matched_inverse[k], mean = b.matched_mean[k];
    const vf to_variance = inverse * (0.5f * b.adjoint[k] * b.matched_start[k] - b.matched_grad[k] * inverse);
    b.scratch[k] = select(mean * (1.0f - mean) >= 0.1f, to_variance * (1.0f - 2.0f * mean), splat(0.0f));
  }
  const vf centre = mean_under<Along>(b.n, {b.matched_mean, splat(1.0f)}, [&](int k) { return b.scratch[k]; });
  for (int k = 0; k < b.n; ++k) b.grad[k] += b.matched_mean[k] * (b.scratch[k] - centre);
}

template <bool Along>
void backward_chain(Block<Along>& b) {
  const Call& call = b.call;
  Weights q;
  if (call.kept) {
    q = b.kept_chain();
  } else {
    b.read_chain_noise();
    q = b.run_chain(true);
  }
  direct_term(b, q, call.weight, call.last, false, 1.0f);
  if (call.rule == kMatched) {
    begin_matched(b);
    adjoint_chain<Along, true>(b);
    end_matched(b);
  } else {
    adjoint_chain<Along, false>(b);
  }
}

template <bool Along>
void backward_gumbel(Block<Along>& b) {
  add_gumbels(b);
  const Weights p = relaxed_gumbel(b);
  direct_term(b, p, 0.0f, 0.0f, false, 1.0f / b.call.temperature);
}

// ReinMax at a temperature: 2 J(m) g - J(p) g / 2 with m = (softmax(logits / temperature) + x) / 2.
template <bool Along>
void backward_tempered(Block<Along>& b) {
  const Weights p = b.at_noise(b.ring[0]);
  const vi hot = b.hard_sample(p);
  for (int k = 0; k < b.n; ++k) b.scratch[k] = b.logits[k] * (1.0f / b.call.temperature);
  const Evaluation once = {kNoise, 0, 0, 0};
  const Weights tempered = weigh<Along>(b.n, b.scratch, b.z, no_weights(), no_weights(), once, {nullptr, nullptr}, b.ring[1]);
  for (int k = 0; k < b.n; ++k) b.scratch[k] = 0.5f * (tempered.weight[k] * tempered.inverse + b.one_hot(hot, k));
  const auto upstream = [&](int k) { return b.upstream[k]; };
  const vf mean = mean_under<Along>(b.n, p, upstream);
  const vf middle = mean_under<Along>(b.n, {b.scratch, splat(1.0f)}, upstream);
  const vf half = 0.5f * p.inverse;
  for (int k = 0; k < b.n; ++k) {
    b.grad[k] = 2.0f * b.scratch[k] * (b.upstream[k] - middle) - half * p.weight[k] * (b.upstream[k] - mean);
  }
}

}  // namespace
}  // namespace catreparam
