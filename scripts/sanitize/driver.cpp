// Every method, layout, dtype and solver on buffers of exactly the right size, for the sanitizers to watch.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../../src/catreparam/kernels/compiled/interface.h"

using Setting = catreparam::CatreparamSetting;

struct Table {
  std::vector<double> evaluations, intervals;
};
#include "tables.h"

extern "C" {
int32_t catreparam_choose_instruction_set(const char*);
void* catreparam_make_plan(const Setting*);
void catreparam_free_plan(void*);
void* catreparam_make_job(const void*, int32_t, int64_t, int64_t);
void catreparam_free_job(void*);
int64_t catreparam_kept_floats(const void*);
int32_t catreparam_run(
    const void*, int32_t, uint64_t, const void*, float*, void*, const float*, const float*, const void*);
int32_t catreparam_replay(const void*, int64_t, int64_t, int32_t, uint64_t, float*);
}

static float random_value() { return (float)std::rand() / (float)RAND_MAX * 4 - 2; }

static void check(void* plan, const Setting& setting, int32_t dtype, int64_t rows, int64_t classes, bool bad) {
  const size_t count = (size_t)(rows * classes), item = dtype == 0 ? 4 : 2;
  std::vector<float> values(count), noise(count * (size_t)setting.num_noises), x(count, 0.0f);
  for (float& v : values) v = std::rand() % 10 == 0 ? -INFINITY : random_value();
  for (int64_t r = 0; r < rows; ++r) {
    values[(size_t)(r * classes + classes - 1)] = bad && r % 3 == 0 ? NAN : 0.5f;
    x[(size_t)(r * classes + std::rand() % classes)] = 1.0f;
  }
  for (float& v : noise) v = random_value();
  std::vector<char> logits(count * item), upstream(count * item), out(count * item), gradient(count * item);
  if (dtype == 0) std::memcpy(logits.data(), values.data(), count * 4);
  else
    for (size_t i = 0; i < count; ++i) {  // any bits at all, NaN and infinities among them
      const uint16_t h = (uint16_t)std::rand();
      std::memcpy(logits.data() + 2 * i, &h, 2);
    }
  std::memcpy(upstream.data(), logits.data(), count * item);
  void* job = catreparam_make_job(plan, dtype, rows, classes);
  for (int explicit_noise = 0; explicit_noise < 2; ++explicit_noise) {
    const float* n = explicit_noise ? noise.data() : nullptr;
    const float* h = explicit_noise ? x.data() : nullptr;
    for (int32_t threads : {1, 3}) {
      catreparam_run(job, threads, 7, logits.data(), nullptr, out.data(), n, h, nullptr);
      catreparam_run(job, threads, 7, logits.data(), nullptr, gradient.data(), n, h, upstream.data());
      const size_t floats = (size_t)catreparam_kept_floats(job);
      void* kept = nullptr;
      if (floats == 0 || posix_memalign(&kept, 64, 4 * floats) != 0) continue;
      float* room = static_cast<float*>(kept);
      catreparam_run(job, threads, 7, logits.data(), room, out.data(), n, h, nullptr);
      catreparam_run(job, threads, 7, logits.data(), room, gradient.data(), n, h, upstream.data());
      std::free(kept);
    }
  }
  catreparam_free_job(job);
  std::vector<float> replayed(count * (size_t)((setting.num_noises + 1) / 2));
  catreparam_replay(plan, rows, classes, 2, 7, replayed.data());
}

int main(int argc, char** argv) {
  const std::string sets = argc > 1 ? argv[1] : "generic";
  for (const char* set : {"generic", "avx2", "avx512"}) {
    if (sets.find(set) == std::string::npos || catreparam_choose_instruction_set(set) != 0) continue;
    for (int32_t rule = catreparam::kDirect; rule <= catreparam::kSweep; ++rule)
      for (const Table& table : tables) {
        const bool chained = rule == catreparam::kChain || rule == catreparam::kMatched, sweeps = rule == catreparam::kSweep;
        if (!chained && &table - tables.data() >= (sweeps ? 5 : 1)) continue;  // the solver, or the grid too, does not matter
        for (int32_t variant = 0; variant < 4; ++variant) {
          const int32_t evaluations = (int32_t)table.evaluations.size() / 8, intervals = (int32_t)table.intervals.size() / 3;
          const Setting setting = {
              rule, variant % 2, sweeps ? 3 : 1, evaluations, variant < 2 ? 1.0f : 1.3f, variant > 0 ? 0.7f : 0.0f,
              intervals, 0, table.evaluations.data(), table.intervals.data()};
          void* plan = catreparam_make_plan(&setting);
          for (int32_t dtype = 0; dtype < 3; ++dtype)
            for (int64_t rows : {1, 2, 15, 17, 33, 70})
              for (int64_t classes : {1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 65, 127, 128, 129, 191, 192, 193, 300})
                check(plan, setting, dtype, rows, classes, rows == 17);
          catreparam_free_plan(plan);
        }
      }
    std::printf("%s: no error found\n", set);
  }
}
