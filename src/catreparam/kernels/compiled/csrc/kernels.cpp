// The kernels for one instruction set: this file is compiled several times, with CATREPARAM_KERNELS naming the result.
#include "pair_passes.h"
#include "sweep.h"
#include "update.h"

namespace catreparam {
namespace {

bool in_pairs(const Call& call) { return call.classes == 2; }
bool along(const Call& call) { return call.classes > 128; }

int64_t scratch_bytes(const Call& call) {
  return in_pairs(call) ? Pairs::bytes(call) : along(call) ? Block<true>::bytes(call) : Block<false>::bytes(call);
}

bool has_chain(const Call& call) { return call.rule == kChain; }

// Two classes: a row's Jacobian, one number. Else: the chain's softmaxes, which backward would have to make again.
int64_t kept_floats(const Call& call) {
  if (in_pairs(call)) return (call.rows + 31) / 32 * 32;
  if (!has_chain(call)) return 0;
  return along(call) ? call.rows * Block<true>::kept_floats(call) : (call.rows + W - 1) / W * Block<false>::kept_floats(call);
}

// Two vectors of rows, 16 rows apart, share their Philox blocks; so whatever the width, a row's numbers are the same.
template <bool Words, typename Pass>
int32_t for_pairs(const Call& call, int64_t begin, int64_t end, void* scratch, Pass pass) {
  Pairs p(call, scratch);
  constexpr int kParts = 16 / W;  // of 32 rows, each W of the first sixteen and W of the others
  for (int64_t part = 0; begin + part / kParts * 32 + part % kParts * W < end; part += 2) {
    for (int half = 0; half < 2; ++half) {
      const int64_t block = begin + (part + half) / kParts * 32, inside = (part + half) % kParts * W;
      p.counter_row[half] = block / 2 + inside;
      if (Words) p.zero[half] = p.words(half, 0);
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        p.row[i] = block + inside + 16 * (i % 2);
        const int64_t left = end - p.row[i];
        p.valid[i] = (int)(left < 0 ? 0 : left < W ? left : W);
        if (left <= 0) p.row[i] = begin;  // nothing is read or written, but addresses stay inside
      }
    }
    pass(p);
  }
  return p.flags;
}

template <bool Along, typename Pass>
int32_t for_blocks(const Call& call, int64_t begin, int64_t end, void* scratch, Pass pass) {
  Block<Along> block(call, scratch);
  constexpr int64_t kRows = Along ? 1 : W;
  for (block.row = begin; block.row < end; block.row += kRows) {
    block.valid = (int)(end - block.row < kRows ? end - block.row : kRows);
    block.find_kept();
    pass(block);
  }
  return block.flags;
}

int32_t forward(const Call& call, int64_t begin, int64_t end, void* scratch) {
  if (in_pairs(call)) {
    const bool drawn = !(call.noise && call.x);
    if (call.kept) {
      const auto pass = [](Pairs& p) { forward_pair<true>(p); };
      return drawn ? for_pairs<true>(call, begin, end, scratch, pass) : for_pairs<false>(call, begin, end, scratch, pass);
    }
    const auto pass = [](Pairs& p) { forward_pair<false>(p); };
    return drawn ? for_pairs<true>(call, begin, end, scratch, pass) : for_pairs<false>(call, begin, end, scratch, pass);
  }
  if (along(call)) return for_blocks<true>(call, begin, end, scratch, [](auto& b) { forward_block(b); });
  return for_blocks<false>(call, begin, end, scratch, [](auto& b) { forward_block(b); });
}

void backward(const Call& call, int64_t begin, int64_t end, void* scratch) {
  if (call.classes == 1) {  // certain: no gradient, not even a rounding error
    write_zeros(call.out, call.dtype, begin, end - begin);
  } else if (in_pairs(call)) {
    const auto again = [](Pairs& p) { backward_pair<false>(p); };
    if (call.kept) {
      for_pairs<false>(call, begin, end, scratch, [](Pairs& p) { backward_pair<true>(p); });
    } else if ((call.rule == kDirect && call.weight == 0.0f) || (call.noise && call.x)) {
      for_pairs<false>(call, begin, end, scratch, again);
    } else {
      for_pairs<true>(call, begin, end, scratch, again);
    }
  } else if (along(call)) {
    for_blocks<true>(call, begin, end, scratch, [](auto& b) { backward_block(b); });
  } else {
    for_blocks<false>(call, begin, end, scratch, [](auto& b) { backward_block(b); });
  }
}

// The noise that forward and backward make from the seed, written out: float32 [num_noises, rows, classes], the later
// noises of a sweep being those drawn (not their mirror images). For two classes, half the difference either way.
void replay(const Call& call, int64_t begin, int64_t end, void* scratch) {
  const int noises = call.rule == kSweep ? (call.num_noises + 1) / 2 : 1;
  if (in_pairs(call)) {
    for_pairs<true>(call, begin, end, scratch, [noises](Pairs& p) {
      for (int i = 0; i < noises; ++i) {
        const Four half = 0.5f * (p.call.rule == kGumbel ? p.logistic_difference() : p.normal_difference(i));
        p.write(-half, half, p.call.out, kFloat32, i * p.call.rows);
      }
    });
    return;
  }
  const auto pass = [noises](auto& b) {
    for (int i = 0; i < noises; ++i) {
      b.read_noise(i, b.z);
      b.write(b.z, kFloat32, i * b.call.rows + b.row);
    }
  };
  along(call) ? for_blocks<true>(call, begin, end, scratch, pass) : for_blocks<false>(call, begin, end, scratch, pass);
}

void philox_block(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]) {
  Wide state;
  for (int i = 0; i < 4; ++i) state.c[i] = vw{} + counter[i];
  const Generator generator(((uint64_t)key[1] << 32) | key[0]);
  for (int i = 0; i < kRounds; ++i) philox_round(state, vw{} + generator.keys[2 * i], vw{} + generator.keys[2 * i + 1]);
  for (int i = 0; i < 4; ++i) words[i] = (uint32_t)state.c[i][0];
}

}  // namespace

#define CATREPARAM_TEXT_(name) #name
#define CATREPARAM_TEXT(name) CATREPARAM_TEXT_(name)
#define CATREPARAM_JOIN_(a, b) a##b
#define CATREPARAM_JOIN(a, b) CATREPARAM_JOIN_(a, b)

extern const Kernels CATREPARAM_JOIN(kernels_, CATREPARAM_KERNELS);
const Kernels CATREPARAM_JOIN(kernels_, CATREPARAM_KERNELS) = {
    CATREPARAM_TEXT(CATREPARAM_KERNELS), scratch_bytes, kept_floats, forward, backward, replay, update_rows, find_hot,
    philox_block};

}  // namespace catreparam
