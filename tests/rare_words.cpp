// What chosen random words come to, for test_rare_classes.py: exponentials of Gumbels, then draws of what is cut off.
#include <cstdio>

#include "../src/catreparam/kernels/compiled/csrc/draw.h"

using namespace catreparam;

int main() {
  for (uint32_t word : {0u, 1u, 0x7fffffffu, 0xfffbffffu, 0xfffc0000u, 0xfffffffeu, 0xffffffffu})
    for (uint32_t more : {0u, 0x80000000u, 0xffffffffu}) {
      const vf u = uniform(vu{} + word);
      const vf value = select(u >= 1.0f - kTail, gumbel_of_tail(vu{} + word, vu{} + more), gumbel(u));
      std::printf("%u %u %.9g\n", word, more, std::exp(-(double)value[W - 1]));
    }
  vf weights[4] = {splat(1.0f), splat(1e-12f), splat(0.0f), splat(3e-12f)};  // 1e-12 is .002 units of 2^-31
  const Weights p = {weights, splat(1.0f)};
  int counts[4] = {};
  for (uint32_t k = 0; k < 4000; ++k) {
    Words words = {{vu{} + 0x12345678u, vu{}, vu{}, vu{} + k * (0xffffffffu / 4000)}};
    ++counts[draw_class(4, p, words)[0]];
  }
  Words ordinary = {{vu{}, vu{} + 0xffffffffu, vu{}, vu{}}};
  std::printf("draws %d %d %d %d %d\n", counts[0], counts[1], counts[2], counts[3], draw_class(4, p, ordinary)[0]);
}
