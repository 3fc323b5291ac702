// One block of rows, three classes or more (or one): the forward and backward pass of every method.
#pragma once

#include "draw.h"
#include "rows_io.h"

namespace catreparam {
namespace {

struct Arena {  // hands out vectors from the thread's scratch
  char* next;
  template <typename T>
  T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(next);
    next += (count * (int64_t)sizeof(T) + 63) / 64 * 64;
    return taken;
  }
};

template <bool Along>
struct Block {
  const Call& call;
  const Generator generator;
  const int classes;
  const int n;      // vectors
  int64_t row = 0;  // first row
  int valid = 1;    // rows in the block
  int32_t flags = 0;
  vf largest = {};
  float* staging;
  double* block_sums;
  vf *logits, *z, *scratch, *grad, *upstream, *adjoint, *kept, *ring[4];
  vf *matched_mean, *matched_inverse, *matched_start, *matched_grad, *shift;
  vf *stored, *inverses;  // [num_evaluations][n], [num_evaluations]: the chain, kept for the backward pass

  static int vectors(const Call& call) { return Along ? (int)((call.classes + 63) / 64 * (64 / W)) : (int)call.classes; }

  static int64_t bytes(const Call& call) {
    const int64_t vector_bytes = (int64_t)(vectors(call) + 1) * (int64_t)sizeof(vf) + 64;
    const int64_t arrays = 16 + call.num_evaluations * (call.rule == kMatched ? 2 : 1);
    return arrays * vector_bytes + (call.classes / 64 + 2) * 8 + (int64_t)(vectors(call) + 2 * W) * W * 4 + 4096;
  }

  Block(const Call& c, void* memory)
      : call(c), generator(c.seed), classes((int)c.classes), n(vectors(c)) {
    Arena arena{static_cast<char*>(memory)};
    staging = arena.take<float>((int64_t)(n + 2 * W) * W);
    block_sums = arena.take<double>(c.classes / 64 + 2);
    for (vf** array : {&logits, &z, &scratch, &grad, &upstream, &adjoint, &kept, &ring[0], &ring[1], &ring[2], &ring[3],
                       &matched_mean, &matched_inverse, &matched_start, &matched_grad})
      *array = arena.take<vf>(n);
    inverses = arena.take<vf>(c.num_evaluations);
    stored = arena.take<vf>((int64_t)n * c.num_evaluations);
    shift = arena.take<vf>(c.rule == kMatched ? (int64_t)n * c.num_evaluations : 1);
  }

  // Floats that a block's chain takes: its softmaxes and one over the sum of each.
  static int64_t kept_floats(const Call& call) { return call.num_evaluations * (int64_t)(vectors(call) + 1) * W; }

  // Where forward leaves this block's chain for backward, if anywhere.
  void find_kept() {
    if (call.kept == nullptr) return;
    inverses = reinterpret_cast<vf*>(call.kept + row / (Along ? 1 : W) * kept_floats(call));
    stored = inverses + call.num_evaluations;
  }

  // --- in and out ---

  void read(const void* from, Dtype dtype, int64_t first_row, int64_t all_rows, float padding, vf* to) {
    const int64_t start = first_row * classes;
    if (Along) {
      float* as_floats = reinterpret_cast<float*>(to);
      widen(from, dtype, start, classes, as_floats);
      for (int k = classes; k < n * W; ++k) as_floats[k] = padding;
      return;
    }
    const bool direct = dtype != kFloat16 && valid == W && start + (int64_t)(W + 1) * classes + W <= all_rows * classes;
    if (direct && dtype == kBfloat16) return gather_rows(static_cast<const uint16_t*>(from) + start, n, to);
    if (direct) return gather_rows(static_cast<const float*>(from) + start, n, to);
    widen(from, dtype, start, (int64_t)valid * classes, staging);
    std::memset(staging + (int64_t)valid * classes, 0, ((int64_t)(W - valid) * classes + W) * 4);
    gather_rows(staging, n, to);
  }

  void write(const vf* from, Dtype dtype, int64_t first_row) {
    const int64_t start = first_row * classes;
    if (Along) {
      narrow(reinterpret_cast<const float*>(from), dtype, start, classes, call.out);
      return;
    }
    scatter_rows(from, n, staging);
    narrow(staging, dtype, start, (int64_t)valid * classes, call.out);
  }

  void write_hot(vi hot) {
    write_zeros(call.out, call.dtype, row * classes, (int64_t)valid * classes);
    for (int r = 0; r < valid; ++r) write_one(call.out, call.dtype, (row + r) * classes + hot[r]);
  }

  // Logits, their maximum taken off and in units of log 2; `raw`: as they are, the maximum in `largest`. Notes NaN, +inf
  // and rows that allow nothing.
  void read_logits(bool raw) {
    read(call.logits, call.dtype, row, call.rows, -INFINITY, logits);
    vf top = splat(-INFINITY);
    vi nan = {};
    for (int k = 0; k < n; ++k) {
      top = maximum(logits[k], top);
      nan |= logits[k] != logits[k];
    }
    top = top_over_classes<Along>(top);
    const vi odd = nan | ~((top > -INFINITY) & (top < INFINITY));
    if (__builtin_expect(any(odd), 0)) {
      flags |= any(nan) ? kFlagNan : 0;
      flags |= any(top == INFINITY) ? kFlagInfinite : 0;
      flags |= any(top == -INFINITY) ? kFlagEmpty : 0;
      top = select(odd, splat(0.0f), top);
    }
    largest = top;
    if (raw) return;
    for (int k = 0; k < n; ++k) logits[k] = (logits[k] - top) * kLog2e;
  }

  // Noise number `index` of this block into `to`.
  void read_noise(int index, vf* to) {
    if (call.noise) {
      read(call.noise, kFloat32, index * call.rows + row, call.rows * call.num_noises, 0.0f, to);
      return;
    }
    call.rule == kGumbel ? draw_noise<true>(index, to) : draw_noise<false>(index, to);
  }

  template <bool Gumbels>
  void draw_noise(int index, vf* to) {
    for (int group = 0; group < (Along ? n * W / 64 * 16 : (n + 3) / 4); group += Along ? W : 1) {
      const Words words = generator.words<Along>((uint64_t)group, (uint64_t)row, (uint32_t)index);
      const Two first = Gumbels ? Two{gumbel(uniform(words.w[0])), gumbel(uniform(words.w[1]))}
                                : normals(words.w[0], words.w[1]);
      if (!Along && !Gumbels && 4 * group + 2 >= n) {  // the last group of 4 g + 1 or 4 g + 2 classes
        to[4 * group] = first.a;
        if (4 * group + 1 < n) to[4 * group + 1] = first.b;
        break;
      }
      const Two second = Gumbels ? Two{gumbel(uniform(words.w[2])), gumbel(uniform(words.w[3]))}
                                 : normals(words.w[2], words.w[3]);
      const vf four[4] = {first.a, first.b, second.a, second.b};
      const int count = Along || 4 * group + 4 <= n ? 4 : n - 4 * group;
      // Group g, Along, holds classes 64 (g / 16) + g % 16 + {0, 16, 32, 48}.
      float* at = reinterpret_cast<float*>(to) + (Along ? group / 16 * 64 + group % 16 : 4 * group * W);
      for (int i = 0; i < 4 && i < count; ++i) store(at + i * (Along ? 16 : W), four[i]);
      if (!Gumbels) continue;
      const vf top = maximum(maximum(first.a, first.b), maximum(second.a, second.b));
      if (__builtin_expect(any(top > kTailGumbel), 0))
        refine_gumbels<Along>(generator, (uint64_t)group, (uint64_t)row, count, at, Along ? 16 : W);
    }
  }

  vi hard_sample(const Weights& p) {
    if (call.x) {
      read(call.x, kFloat32, row, call.rows, 0.0f, scratch);
      return largest_class<Along>(n, scratch);
    }
    const Words words = generator.words<Along>(0, (uint64_t)row, kUniformStream);
    if (Along) return splat((int32_t)draw_class_along(n, p, words.w[0][0], words.w[1][0], block_sums));
    return draw_class(n, p, words);
  }

  INLINE vf one_hot(vi hot, int k) const {
    const vi here = Along ? lane_index() + k * W : splat(k);
    return select(here == hot, splat(1.0f), splat(0.0f));
  }

  // The value of a vector at the hot class of every row.
  vf at_hot(vi hot, const vf* values) const {
    if (Along) return splat(reinterpret_cast<const float*>(values)[hot[0]]);
    vf found = {};
    for (int k = 0; k < n; ++k) found = select(splat(k) == hot, values[k], found);
    return found;
  }

  // --- the chain ---

  Weights at_noise(vf* out) {
    return weigh<Along>(n, logits, z, no_weights(), no_weights(), {kNoise, 0, 0, 0}, {nullptr, nullptr}, out);
  }

  // The chain as forward left it.
  Weights kept_chain() const {
    const int last = call.num_evaluations - 1;
    return {stored + (int64_t)last * n, inverses[last]};
  }

  // From the noise in z to the relaxed sample. `keep`: every evaluation stays in `stored`, its inverse in `inverses`.
  Weights run_chain(bool keep) {
    Weights before = {ring[2], vf{}}, now = {ring[1], vf{}};
    for (int j = 0; j < call.num_evaluations; ++j) {
      Matched matched = {nullptr, nullptr};
      if (call.rule == kMatched) matched = {matched_inverse, shift + (keep ? (int64_t)j * n : 0)};
      vf* out = keep ? stored + (int64_t)j * n : ring[j % 3];
      const Weights next = weigh<Along>(n, logits, z, now, before, call.evaluations[j], matched, out);
      before = now;
      now = next;
      if (keep) inverses[j] = next.inverse;
    }
    return now;
  }

  // redge_cov: z becomes (z - mean) at pure noise, sqrt(variance) * noise.
  void start_matched() {
    const Weights p = at_noise(ring[3]);
    for (int k = 0; k < n; ++k) {
      const vf mean = p.weight[k] * p.inverse;
      const vf variance = maximum(mean * (1.0f - mean), splat(0.1f));
      matched_mean[k] = mean;
      matched_inverse[k] = 1.0f / variance;
      z[k] *= square_root(variance);
      matched_start[k] = z[k];
    }
  }

  void read_chain_noise() {
    read_noise(0, z);
    if (call.rule == kMatched) start_matched();
  }
};

}  // namespace
}  // namespace catreparam
