// Rows in and out: float32, bfloat16 and float16, turned from rows into vectors of W rows and back.
#pragma once

#include "call.h"
#include "lanes.h"

namespace catreparam {
namespace {

INLINE float half_to_float(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
  const uint32_t magnitude = h & 0x7fffu;
  uint32_t as_bits;
  if (magnitude >= 0x7c00u) {
    as_bits = sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13);
  } else if (magnitude >= 0x400u) {
    as_bits = sign | ((magnitude << 13) + 0x38000000u);
  } else {
    const float value = (float)magnitude * 0x1p-24f;
    std::memcpy(&as_bits, &value, 4);
    as_bits |= sign;
  }
  float out;
  std::memcpy(&out, &as_bits, 4);
  return out;
}

INLINE uint16_t float_to_half(float a) {  // to nearest, ties to even
  uint32_t as_bits;
  std::memcpy(&as_bits, &a, 4);
  const uint32_t sign = (as_bits >> 16) & 0x8000u;
  const uint32_t magnitude = as_bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // subnormal: a multiple of 2^-24, rounded by the addition
    float positive;
    std::memcpy(&positive, &magnitude, 4);
    const float shifted = positive + 0.5f;
    uint32_t rounded;
    std::memcpy(&rounded, &shifted, 4);
    return (uint16_t)(sign | (rounded - 0x3f000000u));
  }
  return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
}

// The upper halves of floats, to nearest, ties to even; NaN stays NaN.
INLINE vu round_to_bfloat(vf a) {
  const vu from = (vu)a;
  const vu rounded = (from + 0x7fffu + ((from >> 16) & 1u)) >> 16;
  return a == a ? rounded : vu{} + 0x7fc0u;
}

INLINE vh float_to_bfloat(vf a) { return __builtin_convertvector(round_to_bfloat(a), vh); }

// Two vectors of 16-bit numbers in 32-bit lanes, one after the other.
INLINE void store_halves(uint16_t* to, vu a, vu b) {
#if defined(__AVX2__) && !(defined(__AVX512F__) && defined(__AVX512DQ__))
  const __m256i packed = _mm256_packus_epi32((__m256i)a, (__m256i)b);  // by halves of vectors
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
#else
  const vh first = __builtin_convertvector(a, vh), second = __builtin_convertvector(b, vh);
  std::memcpy(to, &first, sizeof first);
  std::memcpy(to + W, &second, sizeof second);
#endif
}

INLINE vf load_bfloat(const uint16_t* from) {
  vh half;
  std::memcpy(&half, from, sizeof half);
  return (vf)(__builtin_convertvector(half, vu) << 16);
}

INLINE void store_bfloat(uint16_t* to, vf a) {
  const vh half = float_to_bfloat(a);
  std::memcpy(to, &half, sizeof half);
}

inline void widen(const void* from, Dtype dtype, int64_t start, int64_t count, float* to) {
  if (dtype == kFloat32) {
    std::memcpy(to, static_cast<const float*>(from) + start, (size_t)count * 4);
    return;
  }
  const uint16_t* in = static_cast<const uint16_t*>(from) + start;
  if (dtype == kBfloat16) {
    int64_t i = 0;
    for (; i + W <= count; i += W) store(to + i, load_bfloat(in + i));
    for (; i < count; ++i) {
      const uint32_t wide = (uint32_t)in[i] << 16;
      std::memcpy(to + i, &wide, 4);
    }
    return;
  }
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(in + i))));
#endif
  for (; i < count; ++i) to[i] = half_to_float(in[i]);
}

inline void narrow(const float* from, Dtype dtype, int64_t start, int64_t count, void* to) {
  if (dtype == kFloat32) {
    std::memcpy(static_cast<float*>(to) + start, from, (size_t)count * 4);
    return;
  }
  uint16_t* out = static_cast<uint16_t*>(to) + start;
  if (dtype == kBfloat16) {
    int64_t i = 0;
    for (; i + 2 * W <= count; i += 2 * W)
      store_halves(out + i, round_to_bfloat(load(from + i)), round_to_bfloat(load(from + i + W)));
    for (; i + W <= count; i += W) store_bfloat(out + i, load(from + i));
    if (i < count) {
      vf wide = {};
      std::memcpy(&wide, from + i, 4 * (size_t)(count - i));
      const vh half = float_to_bfloat(wide);
      std::memcpy(out + i, &half, 2 * (size_t)(count - i));
    }
    return;
  }
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128((__m128i*)(out + i), half);
  }
#endif
  for (; i < count; ++i) out[i] = float_to_half(from[i]);
}

INLINE void write_one(void* out, Dtype dtype, int64_t at) {
  if (dtype == kFloat32) {
    static_cast<float*>(out)[at] = 1.0f;
  } else {
    static_cast<uint16_t*>(out)[at] = dtype == kBfloat16 ? 0x3f80 : 0x3c00;
  }
}

INLINE void write_zeros(void* out, Dtype dtype, int64_t start, int64_t count) {
  const size_t size = dtype == kFloat32 ? 4 : 2;
  std::memset(static_cast<char*>(out) + (size_t)start * size, 0, (size_t)count * size);
}

// --- a W x W transpose in registers: log2(W) butterflies ---

template <int S, int... I>
INLINE void butterfly(vf& a, vf& b, std::integer_sequence<int, I...>) {
  const vf low = __builtin_shufflevector(a, b, ((I & S) ? W + I - S : I)...);
  const vf high = __builtin_shufflevector(a, b, ((I & S) ? W + I : I + S)...);
  a = low;
  b = high;
}

template <int S>
INLINE void butterflies(vf (&v)[W]) {
  for (int i = 0; i < W; ++i)
    if (!(i & S)) butterfly<S>(v[i], v[i + S], std::make_integer_sequence<int, W>());
}

INLINE void transpose(vf (&v)[W]) {
  butterflies<1>(v);
  butterflies<2>(v);
  if (W > 4) butterflies<(W > 4 ? 4 : 1)>(v);
  if (W > 8) butterflies<(W > 8 ? 8 : 1)>(v);
}

INLINE vf load_any(const float* from) { return load(from); }
INLINE vf load_any(const uint16_t* from) { return load_bfloat(from); }

// W rows of n floats or bfloats, one after the other, into n vectors. Reads up to W of them past the last row.
template <typename T>
inline void gather_rows(const T* from, int n, vf* to) {
  for (int k = 0; k < n; k += W) {
    vf v[W];
    for (int r = 0; r < W; ++r) v[r] = load_any(from + (int64_t)r * n + k);
    transpose(v);
    const int width = n - k < W ? n - k : W;
    for (int c = 0; c < width; ++c) to[k + c] = v[c];
  }
}

// n vectors into W rows of n floats. Writes up to W floats past the last row. From the last columns to the first, rows
// upwards: what a row's last vector spills over the next row is written again afterwards.
inline void scatter_rows(const vf* from, int n, float* to) {
  for (int k = (n - 1) / W * W; k >= 0; k -= W) {
    vf v[W];
    const int width = n - k < W ? n - k : W;
    for (int c = 0; c < W; ++c) v[c] = c < width ? from[k + c] : vf{};
    transpose(v);
    for (int r = 0; r < W; ++r) store(to + (int64_t)r * n + k, v[r]);
  }
}

}  // namespace
}  // namespace catreparam
