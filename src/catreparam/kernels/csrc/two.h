// Two vectors at once: chains of dependent operations on one leave the processor idle half the time.
#pragma once

#include "noise.h"

namespace catreparam {
namespace {

struct TwoMasks {
  vi a, b;
};

INLINE Two both(vf v) { return {v, v}; }
INLINE Two both(float v) { return {splat(v), splat(v)}; }

#define CATREPARAM_TWO(op)                                                             \
  INLINE Two operator op(Two l, Two r) { return {l.a op r.a, l.b op r.b}; }             \
  INLINE Two operator op(float l, Two r) { return {l op r.a, l op r.b}; }               \
  INLINE Two operator op(Two l, float r) { return {l.a op r, l.b op r}; }
CATREPARAM_TWO(+)
CATREPARAM_TWO(-)
CATREPARAM_TWO(*)
CATREPARAM_TWO(/)
#undef CATREPARAM_TWO

INLINE Two operator-(Two v) { return {-v.a, -v.b}; }
INLINE Two& operator+=(Two& l, Two r) { return l = l + r; }
INLINE Two& operator-=(Two& l, Two r) { return l = l - r; }
INLINE Two& operator*=(Two& l, Two r) { return l = l * r; }

INLINE TwoMasks operator>(Two l, float r) { return {l.a > r, l.b > r}; }
INLINE TwoMasks operator>(Two l, Two r) { return {l.a > r.a, l.b > r.b}; }
INLINE TwoMasks operator>=(Two l, float r) { return {l.a >= r, l.b >= r}; }
INLINE TwoMasks operator^(TwoMasks l, TwoMasks r) { return {l.a ^ r.a, l.b ^ r.b}; }

INLINE Two select(TwoMasks mask, Two l, Two r) { return {select(mask.a, l.a, r.a), select(mask.b, l.b, r.b)}; }
INLINE Two select(TwoMasks mask, float l, float r) { return select(mask, both(l), both(r)); }
INLINE Two maximum(Two l, float r) { return {maximum(l.a, splat(r)), maximum(l.b, splat(r))}; }
INLINE Two absolute(Two v) { return {absolute(v.a), absolute(v.b)}; }
INLINE Two square_root(Two v) { return {square_root(v.a), square_root(v.b)}; }
INLINE Two exp2_lanes(Two v) { return {exp2_lanes(v.a), exp2_lanes(v.b)}; }
INLINE Two logistic(vu a, vu b) { return {logistic(a), logistic(b)}; }

// The size of `magnitude`, which is positive, with the sign of `sign`.
INLINE Two with_sign(Two magnitude, Two sign) {
  const int32_t top = (int32_t)0x80000000;
  return {(vf)(bits(magnitude.a) | (bits(sign.a) & top)), (vf)(bits(magnitude.b) | (bits(sign.b) & top))};
}

}  // namespace
}  // namespace catreparam
