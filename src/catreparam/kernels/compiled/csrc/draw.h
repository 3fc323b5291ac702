// The hard sample: one uniform per row and the inverse CDF. A class of weight zero is never drawn.
#pragma once

#include "chain.h"
#include "noise.h"

namespace catreparam {
namespace {

// floor(a b / 2^32) for 32-bit lanes.
INLINE vu high_product(vu a, vu b) {
  const vw even = product32((vw)a, (vw)b), odd = product32((vw)a >> 32, (vw)b >> 32);
  return (vu)((even >> 32) | (odd & 0xffffffff00000000u));
}

// What a row loses when shares are cut to whole units is a share as well: with its probability, a class is drawn by
// what was cut off its own. Asked for one row in a million; -1: not this time.
__attribute__((noinline)) int draw_of_cut(int n, const Weights& p, vf scale, int row, const Words& words) {
  double cut = 0, whole = 0;
  const auto cut_off = [&](int k) {
    const double share = p.weight[k][row] * scale[row];
    return share - std::floor(share);
  };
  for (int k = 0; k < n; ++k) {
    cut += cut_off(k);
    whole += std::floor(p.weight[k][row] * scale[row]);
  }
  const double uniform = ((double)words.w[1][row] + ((double)words.w[2][row] + 0.5) * 0x1p-32) * 0x1p-32;
  if (!(uniform * (whole + cut) < cut)) return -1;
  double left = ((double)words.w[3][row] + 0.5) * 0x1p-32 * cut;
  int hot = -1;
  for (int k = 0; k < n && left >= 0; ++k) {
    const double part = cut_off(k);
    if (part > 0) hot = k;
    left -= part;
  }
  return hot;
}

// Rows side by side. Probabilities as integers below 2^31, so that the sums are exact; the rest is `draw_of_cut`'s.
INLINE vi draw_class(int n, const Weights& p, const Words& words) {
  const vf scale = p.inverse * 2147450880.0f;  // 2^31 (1 - 2^-16): room for the rounding of the sum
  vu total = {}, cumulative = {};  // unsigned: rows that are invalid anyway may wrap around
  for (int k = 0; k < n; ++k) total += (vu)to_int(p.weight[k] * scale);
  const vi threshold = (vi)high_product(words.w[0], total);
  vi index = {};
  for (int k = 0; k < n; ++k) {
    cumulative += (vu)to_int(p.weight[k] * scale);
    index -= (vi)cumulative <= threshold;  // true is -1
  }
  index = index > n - 1 ? splat(n - 1) : index;  // only rows that are invalid anyway
  // n units at most are cut off, of nearly 2^31.
  const vi may_be_cut = (vi)(words.w[1] < 2u * (uint32_t)n + 4u);
  if (__builtin_expect(any(may_be_cut), 0)) {
    for (int i = 0; i < W; ++i) {
      const int other = may_be_cut[i] ? draw_of_cut(n, p, scale, i, words) : -1;
      if (other >= 0) index[i] = other;
    }
  }
  return index;
}

// One row along the lanes: blocks of 64 classes, then a walk inside one block, in double.
inline int64_t draw_class_along(int n, const Weights& p, uint32_t high, uint32_t low, double* block_sums) {
  constexpr int kVectors = 64 / W;
  const int blocks = n / kVectors;
  double total = 0;
  for (int b = 0; b < blocks; ++b) {
    vf sum = p.weight[b * kVectors];
    for (int i = 1; i < kVectors; ++i) sum += p.weight[b * kVectors + i];
    total += block_sums[b] = sum_of_lanes(sum);
  }
  const uint64_t random = ((uint64_t)high << 32) | low;
  double left = (double)(random >> 11) * 0x1p-53 * total;
  int chosen = 0;
  for (int b = 0; b < blocks; ++b) {
    if (block_sums[b] > 0) {
      chosen = b;
      if (left < block_sums[b]) break;
    }
    left -= block_sums[b];
  }
  const float* weight = reinterpret_cast<const float*>(p.weight) + (int64_t)chosen * 64;
  // Beside a likely class, the float sum has lost the rare ones.
  typedef double Eight __attribute__((vector_size(64)));
  typedef float EightFloats __attribute__((vector_size(32), aligned(4), may_alias));
  Eight part = {};
  for (int i = 0; i < 64; i += 8) part += __builtin_convertvector(*reinterpret_cast<const EightFloats*>(weight + i), Eight);
  const double exact = ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
  if (exact > 0) left *= exact / block_sums[chosen];
  int64_t hot = 0;
  for (int i = 0; i < 64; ++i) {
    if (weight[i] > 0) {
      hot = i;
      if (left < weight[i]) break;
    }
    left -= weight[i];
  }
  return (int64_t)chosen * 64 + hot;
}

// The first class with the largest value.
template <bool Along>
INLINE vi largest_class(int n, const vf* values) {
  vf best = values[0];
  vi index = Along ? lane_index() : vi{};
  for (int k = 1; k < n; ++k) {
    const vi better = values[k] > best;
    best = select(better, values[k], best);
    index = better ? (Along ? lane_index() + k * W : splat(k)) : index;
  }
  if (!Along) return index;
  float top = best[0];
  int32_t first = index[0];
  for (int i = 1; i < W; ++i)
    if (best[i] > top || (best[i] == top && index[i] < first)) top = best[i], first = index[i];
  return splat(first);
}

}  // namespace
}  // namespace catreparam
