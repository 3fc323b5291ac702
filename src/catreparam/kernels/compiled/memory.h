// The node's memory: rooms that are handed out again, and tensors that nobody else holds.
#pragma once

#include <ATen/ATen.h>

#include "interface.h"

#include <mutex>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

namespace catreparam {

using at::Tensor;

// What forward leaves for backward; `library.Room` does the same in Python, by the same rules. Memory beyond kSmallRoom is
// handed out again: fresh pages cost more than filling them.
class Room {
 public:
  explicit Room(int64_t floats) {
    if (floats > kSmallRoom) {
      std::lock_guard<std::mutex> lock(mutex());
      auto& free = spare()[floats];
      if (!free.empty()) {
        memory_ = std::move(free.back());
        free.pop_back();
        return;
      }
    }
    memory_ = at::empty({floats}, at::kFloat);
  }
  ~Room() {
    const int64_t floats = memory_.numel();
    if (floats <= kSmallRoom) return;
    std::lock_guard<std::mutex> lock(mutex());
    if (spare().size() > kMostSpare) spare().clear();
    auto& free = spare()[floats];
    if (free.size() < kMostSpare) free.push_back(std::move(memory_));
  }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  float* data() const { return memory_.data_ptr<float>(); }

  static void forget_spare() {
    std::lock_guard<std::mutex> lock(mutex());
    spare().clear();
  }

 private:
  static std::unordered_map<int64_t, std::vector<Tensor>>& spare() {  // never destroyed: nodes may outlive statics
    static auto* const rooms = new std::unordered_map<int64_t, std::vector<Tensor>>;
    return *rooms;
  }
  static std::mutex& mutex() {
    static auto* const it = new std::mutex;
    return *it;
  }
  Tensor memory_;
};

// Whether a tensor, of which the caller has one reference, has no other but that of a Python object that nobody holds.
template <class Impl>
auto is_held_in_vain(const Impl* impl, int) -> decltype(impl->pyobj_slot()->has_unique_reference()) {
  return impl->pyobj_slot()->has_unique_reference();
}
template <class Impl>
bool is_held_in_vain(const Impl*, long) { return false; }  // older releases of torch do not tell

inline bool nobody_holds(const Tensor& tensor) {
  const auto count = tensor.use_count();
  return tensor.storage().use_count() == 1 && (count == 1 || (count == 2 && is_held_in_vain(tensor.unsafeGetTensorImpl(), 0)));
}

}  // namespace catreparam
