// The threads of the OpenMP runtime that torch has loaded, if it is GNU's: they spin for a while after every torch operation,
// and threads of our own would have to fight them for the cores. Only where they cannot hang: GNU's runtime is lost in a
// forked child, so that one that forked since the library was loaded, or was itself forked, does without.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>

#if defined(__linux__)
#include <dlfcn.h>
#include <unistd.h>
#endif

namespace catreparam {

using ParallelRegion = void (*)(void (*body)(void*), void* context, unsigned threads, unsigned flags);

struct Team {
  int owner;  // process id
  ParallelRegion region;  // null: there is no team to be used
  int (*thread_number)();
};

#if defined(__linux__)

// Whether this process was forked and has not executed a program since (PF_FORKNOEXEC in the kernel's flags).
inline bool forked_without_exec() {
  std::FILE* file = std::fopen("/proc/self/stat", "r");
  if (file == nullptr) return true;
  char text[1024];
  const size_t size = std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  text[size] = 0;
  const char* after_name = std::strrchr(text, ')');
  unsigned long flags = 0;
  if (after_name == nullptr || std::sscanf(after_name + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) != 1) return true;
  return (flags & 0x40) != 0;
}

inline Team find_team() {
  if (forked_without_exec()) return {getpid(), nullptr, nullptr};
  const auto region = reinterpret_cast<ParallelRegion>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  const auto thread_number = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
  return {getpid(), thread_number != nullptr ? region : nullptr, thread_number};
}

inline Team torch_team() {
  static const Team team = find_team();
  return team.owner == getpid() ? team : Team{};
}

#else

inline Team torch_team() { return {}; }

#endif

}  // namespace catreparam
