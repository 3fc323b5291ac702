// Vectors of W floats and the few operations on them. Everything has internal linkage: this file is compiled once per
// instruction set, and a function of one must never be merged with that of another.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace catreparam {
namespace {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));
typedef uint64_t vw __attribute__((vector_size(4 * W)));  // W / 2 wide lanes
typedef float vf_unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

#define INLINE inline __attribute__((always_inline))

INLINE vf splat(float a) { return vf{} + a; }
INLINE vi splat(int32_t a) { return vi{} + a; }
INLINE vf load(const float* from) { return *reinterpret_cast<const vf_unaligned*>(from); }
INLINE void store(float* to, vf a) { *reinterpret_cast<vf_unaligned*>(to) = a; }
INLINE vi bits(vf a) { return (vi)a; }
INLINE vf select(vi mask, vf a, vf b) { return mask ? a : b; }
INLINE vf absolute(vf a) { return (vf)(bits(a) & 0x7fffffff); }
INLINE vf to_float(vi a) { return __builtin_convertvector(a, vf); }
INLINE vi to_int(vf a) { return __builtin_convertvector(a, vi); }  // truncates

template <int... I>
INLINE vi count_up(std::integer_sequence<int, I...>) { return vi{I...}; }
INLINE vi lane_index() { return count_up(std::make_integer_sequence<int, W>()); }

// maximum, minimum: b if either is NaN.
#if defined(__AVX512F__) && defined(__AVX512DQ__)
INLINE vf maximum(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf minimum(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vf square_root(vf a) { return (vf)_mm512_sqrt_ps((__m512)a); }
INLINE vw product32(vw a, vw b) { return (vw)_mm512_mul_epu32((__m512i)a, (__m512i)b); }
INLINE vw xor3(vw a, vw b, vw c) { return (vw)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96); }
INLINE bool any(vi mask) { return _mm512_movepi32_mask((__m512i)mask) != 0; }
#elif defined(__AVX2__)
INLINE vf maximum(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf minimum(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf square_root(vf a) { return (vf)_mm256_sqrt_ps((__m256)a); }
INLINE vw product32(vw a, vw b) { return (vw)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
INLINE vw xor3(vw a, vw b, vw c) { return a ^ b ^ c; }
INLINE bool any(vi mask) { return _mm256_movemask_ps((__m256)mask) != 0; }
#else
INLINE vf maximum(vf a, vf b) { return a > b ? a : b; }
INLINE vf minimum(vf a, vf b) { return a < b ? a : b; }
INLINE vf square_root(vf a) {
  for (int i = 0; i < W; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
INLINE vw product32(vw a, vw b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
INLINE vw xor3(vw a, vw b, vw c) { return a ^ b ^ c; }
INLINE bool any(vi mask) {
  int32_t found = 0;
  for (int i = 0; i < W; ++i) found |= mask[i];
  return found != 0;
}
#endif

// Lane i beside lane i ^ S.
template <int S, int... I>
INLINE vf neighbours(vf a, std::integer_sequence<int, I...>) { return __builtin_shufflevector(a, a, (I ^ S)...); }

template <int S>
INLINE float sum_by_halves(vf a) {
  a += neighbours<S>(a, std::make_integer_sequence<int, W>());
  if constexpr (S > 1) return sum_by_halves<S / 2>(a);
  return a[0];
}

template <int S>
INLINE float top_by_halves(vf a) {
  const vf other = neighbours<S>(a, std::make_integer_sequence<int, W>());
  a = a > other ? a : other;
  if constexpr (S > 1) return top_by_halves<S / 2>(a);
  return a[0];
}

INLINE float sum_of_lanes(vf a) { return sum_by_halves<W / 2>(a); }  // a fixed tree: the same for every vector
INLINE float top_of_lanes(vf a) { return top_by_halves<W / 2>(a); }

// 2^y to 1e-7 relative; below 2^-126 (and at -inf) exactly 0: no denormals arise. Above 2^127 it is 2^127; NaN stays.
INLINE vf exp2_lanes(vf y) {
  const vf kept = minimum(splat(127.0f), y);
  const vf magic = splat(12582912.0f);  // adding it rounds to the nearest integer, found in the low bits
  const vf shifted = kept + magic;
  const vf r = kept - (shifted - magic);  // rubbish for y that are far too small
  vf p = splat(0.00132764720658267f);
  p = p * r + 0.0096755414528071f;
  p = p * r + 0.05550713274297855f;
  p = p * r + 0.240221197216615f;
  p = p * r + 0.6931469670636293f;
  p = p * r + 1.0000000716551207f;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  const __mmask16 normal = _mm512_cmp_ps_mask((__m512)y, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return (vf)_mm512_maskz_add_epi32(normal, (__m512i)p, (__m512i)((vu)shifted << 23));
#else
  return y < -126.0f ? splat(0.0f) : (vf)((vu)p + ((vu)shifted << 23));
#endif
}

// Natural logarithm of positive normal numbers, to 1e-7 relative, near 1 too.
INLINE vf log_lanes(vf a) {
  const vi offset = bits(a) - 0x3f3504f3;  // sqrt(1/2)
  const vi exponent = offset >> 23;
  const vf f = (vf)(bits(a) - (exponent << 23)) - 1.0f;
  vf p = splat(0.12580461439972282f);
  p = p * f - 0.2072611350689366f;
  p = p * f + 0.21572239866203025f;
  p = p * f - 0.23894621974025684f;
  p = p * f + 0.28791578271224144f;
  p = p * f - 0.36070362085601126f;
  p = p * f + 0.4809106535963735f;
  p = p * f - 0.7213473474358855f;
  p = p * f + 1.4426950036133275f;
  return (to_float(exponent) + f * p) * kLn2;
}

}  // namespace
}  // namespace catreparam
