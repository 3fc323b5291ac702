// Four vectors at once: a chain of dependent operations on one or two leaves the processor idle most of the time.
#pragma once

#include "noise.h"

namespace catreparam {
namespace {

struct Four {  // members, not an array, and no functions of functions: so that compilers keep them in registers
  vf a, b, c, d;
};

// One by one: assigning the whole goes through memory, by halves of vectors.
INLINE void put(Four* to, Four from) {
  to->a = from.a;
  to->b = from.b;
  to->c = from.c;
  to->d = from.d;
}

struct FourMasks {
  vi a, b, c, d;
};

INLINE Four all(float v) { return {splat(v), splat(v), splat(v), splat(v)}; }
INLINE Four join(Two l, Two r) { return {l.a, l.b, r.a, r.b}; }

#define CATREPARAM_OPERATOR(op)                                                                       \
  INLINE Four operator op(Four l, Four r) { return {l.a op r.a, l.b op r.b, l.c op r.c, l.d op r.d}; } \
  INLINE Four operator op(float l, Four r) { return {l op r.a, l op r.b, l op r.c, l op r.d}; }        \
  INLINE Four operator op(Four l, float r) { return {l.a op r, l.b op r, l.c op r, l.d op r}; }        \
  INLINE Four& operator op##=(Four& l, Four r) { return l = l op r; }
CATREPARAM_OPERATOR(+)
CATREPARAM_OPERATOR(-)
CATREPARAM_OPERATOR(*)
CATREPARAM_OPERATOR(/)
#undef CATREPARAM_OPERATOR

INLINE Four operator-(Four v) { return {-v.a, -v.b, -v.c, -v.d}; }

#define CATREPARAM_FUNCTION(f) \
  INLINE Four f(Four v) { return {f(v.a), f(v.b), f(v.c), f(v.d)}; }
CATREPARAM_FUNCTION(absolute)
CATREPARAM_FUNCTION(square_root)
CATREPARAM_FUNCTION(exp2_lanes)
#undef CATREPARAM_FUNCTION

INLINE Four maximum(Four l, float r) {
  const vf bound = splat(r);
  return {maximum(l.a, bound), maximum(l.b, bound), maximum(l.c, bound), maximum(l.d, bound)};
}

INLINE Four minimum(Four l, float r) { return -maximum(-l, -r); }

// The size of `magnitude`, which is positive, with the sign of `sign`.
INLINE vf with_sign(vf magnitude, vf sign) { return (vf)(bits(magnitude) | (bits(sign) & (int32_t)0x80000000)); }
INLINE Four with_sign(Four l, Four r) {
  return {with_sign(l.a, r.a), with_sign(l.b, r.b), with_sign(l.c, r.c), with_sign(l.d, r.d)};
}

INLINE FourMasks operator>(Four l, float r) { return {l.a > r, l.b > r, l.c > r, l.d > r}; }
INLINE FourMasks operator>(Four l, Four r) { return {l.a > r.a, l.b > r.b, l.c > r.c, l.d > r.d}; }
INLINE FourMasks operator>=(Four l, float r) { return {l.a >= r, l.b >= r, l.c >= r, l.d >= r}; }
INLINE FourMasks operator^(FourMasks l, FourMasks r) { return {l.a ^ r.a, l.b ^ r.b, l.c ^ r.c, l.d ^ r.d}; }

INLINE Four select(FourMasks mask, Four l, Four r) {
  return {select(mask.a, l.a, r.a), select(mask.b, l.b, r.b), select(mask.c, l.c, r.c), select(mask.d, l.d, r.d)};
}
INLINE Four select(FourMasks mask, float l, float r) { return select(mask, all(l), all(r)); }

}  // namespace
}  // namespace catreparam
