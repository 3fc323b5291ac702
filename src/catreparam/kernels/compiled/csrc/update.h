// A step of guidance after the reward's gradient: the gradient of the KL divergence from the prior, and Adam.
#pragma once

#include "call.h"
#include "lanes.h"

namespace catreparam {
namespace {

// The first `left` of a vector, all W where there are as many; the others are `padding`.
INLINE vf load_part(const float* from, int64_t left, float padding) {
  if (left >= W) return load(from);
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  return (vf)_mm512_mask_loadu_ps(_mm512_set1_ps(padding), (__mmask16)((1u << left) - 1), from);
#else
  float part[W];
  for (int i = 0; i < W; ++i) part[i] = i < left ? from[i] : padding;
  return load(part);
#endif
}

INLINE void store_part(float* to, int64_t left, vf a) {
  if (left >= W) return store(to, a);
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  _mm512_mask_storeu_ps(to, (__mmask16)((1u << left) - 1), (__m512)a);
#else
  for (int i = 0; i < left; ++i) to[i] = a[i];
#endif
}

// R rows at once, one after the other in memory: with few classes a single one would wait for its own sums.
template <int R>
struct RowsUpdate {
  const Update& u;
  const int64_t row, n;
  float* weights;  // [R][n rounded up to W]

  RowsUpdate(const Update& update, int64_t first_row, void* scratch)
      : u(update), row(first_row), n(update.classes), weights(static_cast<float*>(scratch)) {}

  int64_t at(int r, int64_t k) const { return (row + r) * n + k; }
  INLINE vf logits(int r, int64_t k, float padding = 0.0f) const { return load_part(u.logits + at(r, k), n - k, padding); }
  INLINE float* weights_at(int r, int64_t k) const { return weights + r * ((n + W - 1) / W * W) + k; }
  bool is_active(int r) const { return u.active == nullptr || u.active[row + r] != 0; }

  // What the rows look like before they are moved; the gradient of the KL is added. False if the reward's is not finite.
  bool add_divergence() const {
    vf tops[R], totals[R] = {}, kls[R] = {}, entropies[R] = {}, squares[R] = {}, wrong = {};
    float top[R], scale[R], log_sum[R], kl[R];
    for (int r = 0; r < R; ++r) tops[r] = splat(-INFINITY);
    for (int64_t k = 0; k < n; k += W)
      for (int r = 0; r < R; ++r) tops[r] = maximum(logits(r, k, -INFINITY), tops[r]);
    for (int r = 0; r < R; ++r) top[r] = top_of_lanes(tops[r]);
    for (int64_t k = 0; k < n; k += W)
      for (int r = 0; r < R; ++r) {
        const vf weight = exp2_lanes((logits(r, k, -INFINITY) - top[r]) * kLog2e);
        store(weights_at(r, k), weight);
        totals[r] += weight;
      }
    for (int r = 0; r < R; ++r) {
      const float total = sum_of_lanes(totals[r]);
      scale[r] = 1.0f / total;
      log_sum[r] = top[r] + log_lanes(splat(total))[0];
    }
    for (int64_t k = 0; k < n; k += W)
      for (int r = 0; r < R; ++r) {
        const vf weight = load(weights_at(r, k));
        kls[r] += weight * log_ratio(r, k, weight, log_sum[r]);
        entropies[r] -= select(weight > 0.0f, weight * (logits(r, k) - log_sum[r]), vf{});
      }
    for (int r = 0; r < R; ++r) {
      kl[r] = u.kl[row + r] = sum_of_lanes(kls[r]) * scale[r];
      u.entropy[row + r] = sum_of_lanes(entropies[r]) * scale[r];
    }
    for (int64_t k = 0; k < n; k += W)
      for (int r = 0; r < R; ++r) {
        const vf weight = load(weights_at(r, k)), given = load_part(u.gradient + at(r, k), n - k, 0.0f);
        wrong += given * 0.0f;
        const vf of_kl = u.kl_weight * scale[r] * weight * (log_ratio(r, k, weight, log_sum[r]) - kl[r]);
        const vf sum = is_active(r) ? given + of_kl : vf{};
        squares[r] += sum * sum;
        store_part(u.gradient + at(r, k), n - k, sum);
      }
    for (int r = 0; r < R; ++r) u.square[row + r] = sum_of_lanes(squares[r]);
    return !any(wrong != wrong);
  }

  // log q - log prior; 0 where q is, for 0 * inf is NaN.
  INLINE vf log_ratio(int r, int64_t k, vf weight, float log_sum) const {
    const vf ratio = logits(r, k) - log_sum - load_part(u.log_prior + at(r, k), n - k, 0.0f);
    return select(weight > 0.0f, ratio, vf{});
  }

  // Adam as torch.optim.Adam does it.
  void move() const {
    for (int64_t k = 0; k < n; k += W)
      for (int r = 0; r < R; ++r) {
        const int64_t here = at(r, k), left = n - k;
        const float clip = u.clip ? u.clip[(row + r) / u.rows_of_sequence] : 1.0f;
        const vf g = load_part(u.gradient + here, left, 0.0f) * clip;
        vf m = {}, v = {};
        if (!u.fresh) m = load_part(u.first + here, left, 0.0f), v = load_part(u.second + here, left, 0.0f);
        m += (g - m) * (1.0f - u.beta1);
        v = v * u.beta2 + g * g * (1.0f - u.beta2);
        store_part(u.first + here, left, m);
        store_part(u.second + here, left, v);
        store_part(u.logits + here, left, logits(r, k) - u.step_size * m / (square_root(v) * u.root + u.epsilon));
      }
  }
};

constexpr int kRowsAtOnce = 4;  // with classes that fit into a vector

template <int R>
bool update_some(const Update& u, int64_t& row, int64_t end, void* scratch) {
  bool finite = true;
  for (; row + R <= end; row += R) {
    const RowsUpdate<R> rows(u, row, scratch);
    if (u.passes & kAddDivergence) finite &= rows.add_divergence();
    if (u.passes & kMove) rows.move();
  }
  return finite;
}

int32_t update_rows(const Update& u, int64_t begin, int64_t end, void* scratch) {
  bool finite = true;
  if (u.classes <= W) finite = update_some<kRowsAtOnce>(u, begin, end, scratch);
  finite &= update_some<1>(u, begin, end, scratch);
  return finite ? 0 : kFlagNan;
}

// The class of every row that is exactly one-hot. False at the first that is not.
bool find_hot(const float* x, int64_t classes, int64_t begin, int64_t end, int64_t* hot) {
  for (int64_t row = begin; row < end; ++row) {
    const float* values = x + row * classes;
    hot[row] = -1;
    for (int64_t k = 0; k < classes; k += W) {
      if (!any(load_part(values + k, classes - k, 0.0f) != 0.0f)) continue;
      for (int64_t j = k; j < classes && j < k + W; ++j) {
        if (values[j] == 0.0f) continue;
        if (values[j] != 1.0f || hot[row] >= 0) return false;
        hot[row] = j;
      }
    }
    if (hot[row] < 0) return false;
  }
  return true;
}

}  // namespace
}  // namespace catreparam
