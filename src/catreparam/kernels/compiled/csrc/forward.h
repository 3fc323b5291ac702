// Forward pass of a block: the hard sample, or the relaxed one.
#pragma once

#include "block.h"

namespace catreparam {
namespace {

template <bool Along>
void write_soft(Block<Along>& b, const Weights& p) {
  for (int k = 0; k < b.n; ++k) b.scratch[k] = p.weight[k] * p.inverse;
  b.write(b.scratch, b.call.dtype, b.row);
}

// softmax((logits + noise) / temperature) over `z`, which holds logits + noise.
template <bool Along>
Weights relaxed_gumbel(Block<Along>& b) {
  vf top = splat(-INFINITY);
  for (int k = 0; k < b.n; ++k) top = maximum(b.z[k], top);
  top = top_over_classes<Along>(top);
  top = select(top > -INFINITY, top, splat(0.0f));
  const float scale = kLog2e / b.call.temperature;
  vf total = {};
  for (int k = 0; k < b.n; ++k) total += b.ring[0][k] = exp2_lanes((b.z[k] - top) * scale);
  return {b.ring[0], 1.0f / over_classes<Along>(total)};
}

template <bool Along>
void add_gumbels(Block<Along>& b) {
  b.read_noise(0, b.z);
  for (int k = 0; k < b.n; ++k) b.z[k] += b.logits[k] - b.largest;  // noise added to 1e30 would be lost
}

// The mean over the noises of softmax(logits + last z), z = last x + noise.
template <bool Along>
void write_mean_soft(Block<Along>& b, vi hot) {
  const int noises = b.call.num_noises, half = b.call.noise ? noises : (noises + 1) / 2;
  for (int k = 0; k < b.n; ++k) b.grad[k] = vf{};
  for (int i = 0; i < noises; ++i) {
    b.read_noise(i < half ? i : i - half, b.z);
    const float sign = i < half ? 1.0f : -1.0f;
    for (int k = 0; k < b.n; ++k) b.z[k] = sign * b.z[k] + b.call.last * b.one_hot(hot, k);
    const Evaluation at = {kHere, b.call.last, 0, 0};
    const Weights q = weigh<Along>(b.n, b.logits, b.z, no_weights(), no_weights(), at, {nullptr, nullptr}, b.ring[1]);
    const vf scale = q.inverse * (1.0f / (float)noises);
    for (int k = 0; k < b.n; ++k) b.grad[k] += q.weight[k] * scale;
  }
  b.write(b.grad, b.call.dtype, b.row);
}

template <bool Along>
void forward_block(Block<Along>& b) {
  const Call& call = b.call;
  b.read_logits(call.rule == kGumbel);
  switch (call.rule) {
    case kGumbel:
      add_gumbels(b);
      if (call.hard) return b.write_hot(largest_class<Along>(b.n, b.z));
      return write_soft(b, relaxed_gumbel(b));
    case kChain:
    case kMatched: {
      b.read_chain_noise();
      const Weights q = b.run_chain(call.kept != nullptr);
      return call.hard ? b.write_hot(b.hard_sample(q)) : write_soft(b, q);
    }
    case kSweep: {
      const vi hot = b.hard_sample(b.at_noise(b.ring[0]));
      return call.hard ? b.write_hot(hot) : write_mean_soft(b, hot);
    }
    case kDirect:
      return b.write_hot(b.hard_sample(b.at_noise(b.ring[0])));
  }
}

}  // namespace
}  // namespace catreparam
