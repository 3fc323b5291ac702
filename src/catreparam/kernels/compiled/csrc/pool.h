// Threads that wait for work. Nothing here can hang after fork(): a child finds another process id and makes a new pool.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "team.h"

namespace catreparam {

// Chunks 0 ... chunks - 1 dealt out in equal ranges, one per seat. A thread takes its own range first: the same rows stay with
// the same thread from call to call, and what forward left for backward is in that core's cache. Then it helps the others.
class Deal {
 public:
  static constexpr int kMostSeats = 64;

  Deal(int64_t chunks, int threads) : seats_(threads < kMostSeats ? threads : kMostSeats) {
    for (int64_t seat = 0; seat < seats_; ++seat) {
      ranges_[seat].next.store(chunks * seat / seats_, std::memory_order_relaxed);
      ranges_[seat].end = chunks * (seat + 1) / seats_;
    }
  }

  template <typename Work>
  void take_chunks(int seat, Work work) {
    for (int i = 0; i < seats_; ++i) {
      Range& range = ranges_[(seat + i) % seats_];
      for (int64_t chunk; (chunk = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;) work(chunk);
    }
  }

 private:
  struct alignas(64) Range {
    std::atomic<int64_t> next;
    int64_t end;
  };
  const int seats_;
  Range ranges_[kMostSeats];
};

class Pool {
 public:
  using Work = void (*)(void* context, int64_t chunk);

  // Calls work(context, 0 ... chunks - 1), each once, on up to `threads` threads, the caller being one. Never waits for
  // a thread that has not begun: the caller takes whatever is left. A second caller at the same time works alone.
  static void run(int64_t chunks, int threads, Work work, void* context) {
    if (threads > 1 && chunks > 1) {
      if (const Team team = torch_team(); team.region != nullptr) {
        Shared shared{work, context, team.thread_number, Deal(chunks, threads)};
        // As many threads as torch uses, whatever the chunks: the runtime would end and start threads to change that.
        team.region([](void* all) { static_cast<Shared*>(all)->take_chunks(); }, &shared, (unsigned)threads, 0);
        return;
      }
    }
    Pool* pool = threads > 1 && chunks > 1 ? current() : nullptr;
    if (pool == nullptr || !pool->busy_.try_lock()) {
      for (int64_t chunk = 0; chunk < chunks; ++chunk) work(context, chunk);
      return;
    }
    pool->run_together(chunks, threads, work, context);
    pool->busy_.unlock();
  }

 private:
  struct Shared {
    Work work;
    void* context;
    int (*thread_number)();
    Deal deal;

    void take_chunks() {
      deal.take_chunks(thread_number(), [this](int64_t chunk) { work(context, chunk); });
    }
  };

  static Pool* current() {
    static std::atomic<Pool*> shared{nullptr};
    Pool* pool = shared.load(std::memory_order_acquire);
    const pid_t here = getpid();
    if (pool != nullptr && pool->owner_ == here) return pool;
    // Never deleted: its threads wait in it until the process ends, and after a fork its mutexes are in no usable state.
    Pool* fresh = new Pool(here);
    if (shared.compare_exchange_strong(pool, fresh)) return fresh;
    delete fresh;
    return shared.load(std::memory_order_acquire);
  }

  explicit Pool(pid_t owner) : owner_(owner) {}

  void run_together(int64_t chunks, int threads, Work work, void* context) {
    Deal deal(chunks, threads);
    {
      std::lock_guard<std::mutex> lock(state_);
      work_ = work;
      context_ = context;
      deal_ = &deal;
      seats_ = (int)(threads < chunks ? threads : chunks) - 1;
      grow(seats_);
      ++job_;
    }
    wake_.notify_all();
    deal.take_chunks(0, [=](int64_t chunk) { work(context, chunk); });
    std::unique_lock<std::mutex> lock(state_);
    seats_ = 0;  // whoever wakes up now is too late
    done_.wait(lock, [this] { return working_ == 0; });
  }

  void grow(int wanted) {
    try {
      for (; started_ < wanted; ++started_) std::thread([this] { serve(); }).detach();
    } catch (...) {  // no thread to be had: the others, or the caller alone, do the work
    }
  }

  void serve() {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(state_);
    for (;;) {
      wake_.wait(lock, [&] { return job_ != seen; });
      seen = job_;
      if (seats_ == 0) continue;
      const int seat = seats_--;
      ++working_;
      const Work work = work_;
      void* const context = context_;
      Deal* const deal = deal_;
      lock.unlock();
      deal->take_chunks(seat, [=](int64_t chunk) { work(context, chunk); });
      lock.lock();
      if (--working_ == 0) done_.notify_one();
    }
  }

  const pid_t owner_;
  std::mutex busy_, state_;
  std::condition_variable wake_, done_;
  Work work_ = nullptr;
  void* context_ = nullptr;
  Deal* deal_ = nullptr;  // on the stack of the caller, who waits for all that took a seat
  int seats_ = 0, working_ = 0, started_ = 0;
  uint64_t job_ = 0;
};

}  // namespace catreparam
