// One call of the sampler: what to do, on which rows. Plain data, shared by the library and its per-CPU kernels.
#pragma once

#include "../interface.h"

namespace catreparam {

// One softmax of the chain, softmax(logits + lambda z_eval), and how to get there from the one before.
enum Reach : int32_t {
  kHere = 0,       // z_eval = z
  kOneBefore = 1,  // z += a p1;         z_eval = z         (p1: the evaluation before, p2: the one before that)
  kTwoBefore = 2,  // z += a p1 + b p2;  z_eval = z
  kPeek = 3,       // z_eval = z + a p1; z stays            (Heun's predictor)
  kNoise = 4,      // lambda = 0: z does not matter
};

struct Evaluation {
  Reach reach;
  float lambda, a, b;
};

// The adjoint of one evaluation: v = J(p)(alpha A + beta B); grad += v; A += lambda v; then B becomes what `keep` says.
enum Keep : int32_t { kKeepNothing = 0, kKeepA = 1, kKeepStep = 2 };

struct Adjoint {
  Keep keep;
  float alpha, beta;
};

// An interval of the backward sweep of exact-law ReDGE.
struct Interval {
  float start, end, step;
};

struct Call {
  Rule rule;
  Dtype dtype;
  int32_t hard;
  int32_t num_noises;
  float temperature;
  float weight;  // of the second-order term; 0 for relaxed samples
  float last;  // lambda at t1

  int32_t num_evaluations;
  const Evaluation* evaluations;  // [num_evaluations], noise first; the last makes the relaxed sample
  const Adjoint* adjoints;        // [num_evaluations - 1]: of all but the last
  int32_t num_intervals;
  const Interval* intervals;  // noise end last

  int64_t rows, classes;
  uint64_t seed;
  const void* logits;    // [rows, classes] in dtype
  const void* upstream;  // [rows, classes] in dtype, backward only
  const float* noise;    // [rows, classes] or [num_noises, rows, classes], or null: made from the seed
  const float* x;        // [rows, classes] one-hot, or null: drawn from the seed
  float* kept;           // what forward leaves for backward, or null: backward makes it again (kept_floats long)
  void* out;             // [rows, classes] in dtype: the sample (forward), the gradient (backward), the noise (replay)
};

// What each instruction set provides. Ranges of rows start at multiples of kRowAlignment.
constexpr int64_t kRowAlignment = 64;

struct Kernels {
  const char* name;
  int64_t (*scratch_bytes)(const Call&);
  int64_t (*kept_floats)(const Call&);
  int32_t (*forward)(const Call&, int64_t begin, int64_t end, void* scratch);
  void (*backward)(const Call&, int64_t begin, int64_t end, void* scratch);
  void (*replay)(const Call&, int64_t begin, int64_t end, void* scratch);
  int32_t (*update)(const Update&, int64_t begin, int64_t end, void* scratch);
  bool (*find_hot)(const float* x, int64_t classes, int64_t begin, int64_t end, int64_t* hot);
  void (*philox)(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]);
};

}  // namespace catreparam
