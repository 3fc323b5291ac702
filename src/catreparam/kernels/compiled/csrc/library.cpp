// The C interface: picks the instruction set, splits the rows among threads, knows nothing of torch or Python.
#include <cstdlib>
#include <cstring>
#include <new>

#include "plan.h"
#include "pool.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace catreparam {

extern const Kernels kernels_generic;
#if defined(CATREPARAM_X86)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

namespace {

const Kernels* choose(const char* wanted) {
  const auto fits = [wanted](const char* name) { return wanted == nullptr || *wanted == 0 || std::strcmp(wanted, name) == 0; };
#if defined(CATREPARAM_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (fits("avx512") && avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return &kernels_avx512;
  if (fits("avx2") && avx2) return &kernels_avx2;
#endif
  return fits("generic") ? &kernels_generic : nullptr;
}

const Kernels* active = choose(nullptr);

struct Scratch {  // one per thread, kept between calls
  char* memory = nullptr;
  int64_t size = 0;
  ~Scratch() { std::free(memory); }
  char* get(int64_t wanted) {
    if (wanted > size) {
      std::free(memory);
      memory = static_cast<char*>(std::aligned_alloc(64, (size_t)((wanted + 63) / 64 * 64)));
      size = memory ? wanted : 0;
    }
    return memory;
  }
};

thread_local Scratch scratch;
constexpr int64_t kScratchKept = int64_t{64} << 20;  // larger ones are given back after the call

enum class Pass { kForward, kBackward, kReplay };

struct Task {
  Call call;
  Pass pass;
  int64_t rows_per_chunk;
  int64_t scratch_bytes;
  std::atomic<int32_t> flags{0};
};

void work_on_chunk(void* context, int64_t chunk) {
  Task& task = *static_cast<Task*>(context);
  const int64_t begin = chunk * task.rows_per_chunk;
  const int64_t end = begin + task.rows_per_chunk < task.call.rows ? begin + task.rows_per_chunk : task.call.rows;
  char* memory = scratch.get(task.scratch_bytes);
  if (memory == nullptr) {
    task.flags.fetch_or(kFlagNoMemory);
    return;
  }
  if (task.pass == Pass::kForward) {
    const int32_t flags = active->forward(task.call, begin, end, memory);
    if (flags) task.flags.fetch_or(flags);
  } else if (task.pass == Pass::kBackward) {
    active->backward(task.call, begin, end, memory);
  } else {
    active->replay(task.call, begin, end, memory);
  }
  if (task.scratch_bytes > kScratchKept) {
    std::free(scratch.memory);
    scratch = Scratch{};
  }
}

// Fresh pages cost more than filling them: ask for large ones.
void ask_for_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  if (bytes < (int64_t)(4 * kPage)) return;
  const uintptr_t begin = ((uintptr_t)memory + kPage - 1) / kPage * kPage;
  const uintptr_t end = ((uintptr_t)memory + (uintptr_t)bytes) / kPage * kPage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

// About how many nanoseconds a row takes one thread: measured with AVX-512, which is what costs of splitting compare
// with.
double row_cost(const Task& task) {
  const Call& call = task.call;
  const double softmaxes = call.num_evaluations * (call.rule == kSweep ? 2.0 * call.num_noises : 1.0);
  if (call.classes == 2) return task.pass == Pass::kBackward && call.kept ? 0.3 : 2.5 + 0.7 * softmaxes;
  const double noise = task.pass == Pass::kBackward && call.kept ? 0.0 : 1.1;
  return (double)call.classes * (0.5 + noise + 0.3 * softmaxes);
}

constexpr double kChunk = 6000;  // nanoseconds: small enough to share out evenly
constexpr double kHandOverPerThread = 1000;

// What it takes to hand work over: threads that sleep between calls, as OMP_WAIT_POLICY=passive asks, have to be woken.
double find_hand_over() {
  const char* policy = std::getenv("OMP_WAIT_POLICY");
  return policy != nullptr && (policy[0] == 'p' || policy[0] == 'P') ? 50000 : 4000;
}

const double hand_over = find_hand_over();

int32_t run(Task& task, int threads) {
  Call& call = task.call;
  if (call.rows == 0 || call.classes == 0) return 0;
  const int64_t item = task.pass == Pass::kReplay || call.dtype == kFloat32 ? 4 : 2;
  ask_for_large_pages(call.out, call.rows * call.classes * item);
  task.scratch_bytes = active->scratch_bytes(call);
  const double cost = row_cost(task);
  if ((double)call.rows * cost < hand_over + kHandOverPerThread * threads) threads = 1;
  // The same number of chunks for every thread, whatever is left over in the last.
  const int64_t seats = threads < 1 ? 1 : threads;
  const int64_t each = (int64_t)((double)call.rows * cost / (kChunk * (double)seats)) + 1;
  const int64_t rows = (call.rows + seats * each - 1) / (seats * each);
  task.rows_per_chunk = call.classes > 128 ? rows : (rows + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
  const int64_t chunks = (call.rows + task.rows_per_chunk - 1) / task.rows_per_chunk;
  Pool::run(chunks, threads, work_on_chunk, &task);
  return task.flags.load();
}

// Rows dealt out in chunks to functions of (first, one behind the last) that return flags.
template <typename Work>
int32_t for_rows(int64_t rows, double cost, int threads, Work work) {
  if ((double)rows * cost < hand_over + kHandOverPerThread * threads) threads = 1;
  struct Shared {
    Work work;
    const int64_t rows, each;
    std::atomic<int32_t> flags{0};
  } shared{work, rows, (int64_t)(kChunk / cost) + 1};
  const auto take = [](void* context, int64_t chunk) {
    Shared& all = *static_cast<Shared*>(context);
    const int64_t begin = chunk * all.each, end = begin + all.each < all.rows ? begin + all.each : all.rows;
    if (const int32_t flags = all.work(begin, end)) all.flags.fetch_or(flags);
  };
  Pool::run((rows + shared.each - 1) / shared.each, threads, take, &shared);
  return shared.flags.load();
}

}  // namespace
}  // namespace catreparam

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace catreparam;

// What stays the same from call to call; made once per estimator setting by the caller.
struct CatreparamPlan {
  Plan plan;
  Call call;
};

EXPORT int32_t catreparam_version() { return kVersion; }

EXPORT const char* catreparam_instruction_set() { return active->name; }

// For tests: generic, avx2, avx512, or empty for the best there is. 0 if this machine has it.
EXPORT int32_t catreparam_choose_instruction_set(const char* name) {
  const Kernels* chosen = choose(name);
  if (chosen == nullptr) return 1;
  active = chosen;
  return 0;
}

EXPORT void catreparam_philox(const uint32_t* counter, const uint32_t* key, uint32_t* words) {
  active->philox(counter, key, words);
}

EXPORT CatreparamPlan* catreparam_make_plan(const CatreparamSetting* setting) {
  auto* made = new (std::nothrow) CatreparamPlan{};
  if (made == nullptr) return nullptr;
  made->plan = make_plan(*setting);
  Call& call = made->call;
  call.rule = (Rule)setting->rule;
  call.hard = setting->hard;
  call.num_noises = setting->num_noises;
  call.temperature = setting->temperature;
  call.weight = setting->weight;
  call.last = made->plan.evaluations.back().lambda;
  call.num_evaluations = (int32_t)made->plan.evaluations.size();
  call.evaluations = made->plan.evaluations.data();
  call.adjoints = made->plan.adjoints.data();
  call.num_intervals = (int32_t)made->plan.intervals.size();
  call.intervals = made->plan.intervals.data();
  return made;
}

EXPORT void catreparam_free_plan(CatreparamPlan* plan) { delete plan; }

// A plan for rows of a dtype, to be freed by the caller; it may not outlive the plan.
EXPORT Call* catreparam_make_job(const CatreparamPlan* plan, int32_t dtype, int64_t rows, int64_t classes) {
  auto* job = new (std::nothrow) Call(plan->call);
  if (job == nullptr) return nullptr;
  job->dtype = (Dtype)dtype;
  job->rows = rows;
  job->classes = classes;
  return job;
}

EXPORT void catreparam_free_job(Call* job) { delete job; }

// How many floats forward can leave for backward, so that it need not make the chain again. 0: nothing that would help.
EXPORT int64_t catreparam_kept_floats(const Call* job) { return job ? active->kept_floats(*job) : 0; }

// As `Run` in interface.h. `kept`: null, or kept_floats of them, the same for both passes.
EXPORT int32_t catreparam_run(const Call* job, int32_t threads, uint64_t seed, const void* logits, float* kept, void* out,
                              const float* noise, const float* x, const void* upstream) {
  if (job == nullptr) return kFlagNoMemory;
  Task task{*job, upstream ? Pass::kBackward : Pass::kForward, 0, 0};
  Call& call = task.call;
  call.seed = seed;
  call.logits = logits;
  call.kept = kept;
  call.out = out;
  call.noise = noise;
  call.x = x;
  call.upstream = upstream;
  return run(task, threads);
}

// The noise of a seed, float32 [num_noises drawn, rows, classes].
EXPORT int32_t catreparam_replay(const CatreparamPlan* plan, int64_t rows, int64_t classes, int32_t threads, uint64_t seed,
                                 float* out) {
  Task task{plan->call, Pass::kReplay, 0, 0};
  task.call.dtype = kFloat32;
  task.call.rows = rows;
  task.call.classes = classes;
  task.call.seed = seed;
  task.call.out = out;
  return run(task, threads);
}

// Flags: kFlagNan if a gradient was not finite.
EXPORT int32_t catreparam_update(const Update* update, int32_t threads) {
  return for_rows(update->rows, 20.0 + 1.5 * (double)update->classes, threads, [update](int64_t begin, int64_t end) {
    char* memory = scratch.get((update->classes + 128) * 4);
    return memory ? active->update(*update, begin, end, memory) : (int32_t)kFlagNoMemory;
  });
}

// The class of every row of x [rows, classes] into `hot`. Not 0 if a row is not exactly one-hot.
EXPORT int32_t catreparam_find_hot(const float* x, int64_t rows, int64_t classes, int32_t threads, int64_t* hot) {
  return for_rows(rows, 10.0 + 0.3 * (double)classes, threads, [=](int64_t begin, int64_t end) {
    return (int32_t)!active->find_hot(x, classes, begin, end, hot);
  });
}

EXPORT void catreparam_ask_for_large_pages(void* memory, int64_t bytes) { ask_for_large_pages(memory, bytes); }
