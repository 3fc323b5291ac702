// The C interface of the kernels: what `library.py`, the node and the library itself agree on. `library.py` repeats the
// numbers, and `tests/test_kernels_interface.py` holds the two together.
#pragma once

#include <cstdint>

namespace catreparam {

constexpr int32_t kVersion = 5;

// How a sample is drawn and differentiated: `Rule` in methods.py.
enum Rule : int32_t { kDirect = 0, kGumbel = 1, kChain = 2, kMatched = 3, kSweep = 4 };

enum Dtype : int32_t { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2 };

// Bits of the value that a pass returns: rows with NaN, with +inf, that allow nothing; no memory for the scratch.
enum Flag : int32_t { kFlagNan = 1, kFlagInfinite = 2, kFlagEmpty = 4, kFlagNoMemory = 8 };
constexpr int32_t kInvalid = kFlagNan | kFlagInfinite | kFlagEmpty;

// What a setting is to the library. The tables are those of plan.py, and copied.
struct CatreparamSetting {
  int32_t rule, hard, num_noises, num_evaluations;
  float temperature, weight;
  int32_t num_intervals, reserved;
  const double* evaluations;  // [num_evaluations][8]: lam, to_z1, to_z2, peek, from_z, from_kept, keep_z, keep_step
  const double* intervals;    // [num_intervals][3]: start, end, step
};

// (job, threads, seed, logits, kept, out, noise, x, upstream) -> flags: the backward pass if there is an upstream gradient,
// else the forward one. kept, noise and x may be null.
using Run = int32_t (*)(const void*, int32_t, uint64_t, const void*, float*, void*, const float*, const float*, const void*);

// Seeds are drawn below this. Memory that forward leaves for backward: up to so many floats the allocator has at hand, of
// other sizes so many pieces of each are handed out again.
constexpr uint64_t kLargestSeed = (uint64_t{1} << 63) - 1;
constexpr int64_t kSmallRoom = 1 << 15;
constexpr uint64_t kMostSpare = 8;

// A step of guidance after the reward's gradient, on float32 rows [rows, classes] of sequences of `rows_of_sequence` each.
enum UpdatePass : int32_t { kAddDivergence = 1, kMove = 2 };

struct Update {
  int32_t passes;          // kAddDivergence: the KL's gradient, weighted, is added to `gradient`; kMove: Adam moves the logits
  int32_t fresh;           // not 0: Adam's first step, its moments count as 0
  int64_t rows, classes, rows_of_sequence;
  float kl_weight;
  float beta1, beta2, epsilon, step_size, root;  // of Adam; lr / (1 - beta1^t), and 1 / sqrt(1 - beta2^t)
  const float* log_prior;
  const uint8_t* active;   // [rows], 0: the gradient there is 0; null: active all
  const float* clip;       // [sequences], factors of the gradient when Adam sees it; null: 1
  float *logits, *gradient, *first, *second;
  float *kl, *entropy, *square;  // [rows], out, of kAddDivergence; square: of the gradient's norm
};

}  // namespace catreparam
