// The usual call with its autograd node in C++: what `compiled._Sample` does in Python, with fewer steps.
// Optional, compiled by `catreparam build` against the torch that is installed; calls the kernels through their C interface.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <c10/core/SafePyObject.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/utils/object_ptr.h>

#include <memory>
#include <mutex>
#include <type_traits>
#include <unordered_map>
#include <vector>

namespace {

using at::Tensor;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

using Forward = int32_t (*)(const void*, int32_t, uint64_t, const void*, float*, void*, const float*, const float*);
using Backward = int32_t (*)(const void*, int32_t, uint64_t, const void*, float*, void*, const float*, const float*, const void*);

constexpr int32_t kInvalid = 7, kOutOfMemory = 8;  // flags of the kernels
constexpr uint64_t kLargestSeed = (uint64_t{1} << 63) - 1;

Forward forward_kernel = nullptr;
Backward backward_kernel = nullptr;
PyObject* check_rows = nullptr;       // rows -> raises the right error, unless validation is off
PyObject* naive_gradient = nullptr;   // (owner, rows, upstream, seed) -> the gradient by the naive twin, differentiable

// What forward leaves for backward. Memory beyond kSmall is handed out again: fresh pages cost more than filling them.
class Room {
 public:
  explicit Room(int64_t floats) {
    if (floats > kSmall) {
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
    if (floats <= kSmall) return;
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
  static constexpr int64_t kSmall = 1 << 15;
  static constexpr size_t kMostSpare = 8;
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

[[noreturn]] void throw_python_error() {
  python_error error;
  error.persist();
  throw error;
}

struct CategoricalSampleBackward : Node {
  SavedVariable rows;
  const void* job = nullptr;
  uint64_t seed = 0;
  std::unique_ptr<Room> kept;
  std::unique_ptr<c10::SafePyObject> owner;  // of the job

  std::string name() const override { return "CategoricalSampleBackward"; }

  void release_variables() override {
    rows.reset_data();
    kept.reset();
  }

  variable_list apply(variable_list&& upstreams) override {
    Tensor upstream = std::move(upstreams[0]);
    if (!upstream.defined()) return {Tensor()};
    const Tensor logits = rows.unpack();
    if (at::GradMode::is_enabled()) return {second_derivatives(logits, upstream)};  // create_graph=True
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor at = logits.contiguous();
    upstream = upstream.to(at.scalar_type()).contiguous();
    Tensor gradient = at::empty(at.sizes(), at.options());
    const int32_t flags = backward_kernel(job, at::get_num_threads(), seed, at.data_ptr(), kept ? kept->data() : nullptr,
                                          gradient.data_ptr(), nullptr, nullptr, upstream.data_ptr());
    TORCH_CHECK_WITH(OutOfMemoryError, !(flags & kOutOfMemory), "no memory for the scratch of ", at.size(-1), " classes");
    return {gradient};
  }

  Tensor second_derivatives(const Tensor& logits, const Tensor& upstream) const {
    pybind11::gil_scoped_acquire gil;
    THPObjectPtr at(THPVariable_Wrap(logits)), given(THPVariable_Wrap(upstream)), number(PyLong_FromUnsignedLongLong(seed));
    if (!at || !given || !number) throw_python_error();
    PyObject* const holder = owner->ptr(getPyInterpreter());
    THPObjectPtr gradient(PyObject_CallFunctionObjArgs(naive_gradient, holder, at.get(), given.get(), number.get(), nullptr));
    if (!gradient) throw_python_error();
    return THPVariable_Unpack(gradient.get());
  }
};

template <class T>
auto make_node() {  // torch counts references to nodes within them, older releases beside them
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, T>) {
    return c10::make_intrusive<T>();
  } else {
    return std::shared_ptr<T>(new T);
  }
}

uint64_t draw_seed(PyObject* generator) {  // as Tensor.random_(2**63 - 1) draws it
  auto* const source = generator == Py_None
      ? at::check_generator<at::CPUGeneratorImpl>(at::detail::getDefaultCPUGenerator())
      : at::check_generator<at::CPUGeneratorImpl>(reinterpret_cast<THPGenerator*>(generator)->cdata);
  std::lock_guard<std::mutex> lock(source->mutex_);
  return source->random64() % kLargestSeed;
}

// (job address, floats to keep, rows, generator or None, owner of the job) -> sample
PyObject* sample(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 5 && THPVariable_Check(arguments[2]) && (arguments[3] == Py_None || THPGenerator_Check(arguments[3])),
                   "sample takes a job's address, a number of floats, rows, a generator or None, and the job's owner");
  const void* const job = PyLong_AsVoidPtr(arguments[0]);
  const int64_t floats = PyLong_AsLongLong(arguments[1]);
  if (PyErr_Occurred()) return nullptr;
  const Tensor& rows = THPVariable_Unpack(arguments[2]);
  const uint64_t seed = draw_seed(arguments[3]);
  const bool differentiable = rows.requires_grad() && at::GradMode::is_enabled();
  std::unique_ptr<Room> kept;
  Tensor out;
  int32_t flags = 0;
  {
    pybind11::gil_scoped_release no_gil;
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor at = rows.contiguous();
    out = at::empty(at.sizes(), at.options());
    if (differentiable && floats > 0) kept = std::make_unique<Room>(floats);
    flags = forward_kernel(job, at::get_num_threads(), seed, at.data_ptr(), kept ? kept->data() : nullptr, out.data_ptr(),
                           nullptr, nullptr);
  }
  TORCH_CHECK_WITH(OutOfMemoryError, !(flags & kOutOfMemory), "no memory for the scratch of ", rows.size(-1), " classes");
  if (flags & kInvalid) {
    THPObjectPtr checked(PyObject_CallFunctionObjArgs(check_rows, arguments[2], nullptr));
    if (!checked) return nullptr;
  }
  if (differentiable) {
    auto node = make_node<CategoricalSampleBackward>();
    node->set_next_edges(torch::autograd::collect_next_edges(rows));
    node->rows = SavedVariable(rows, false);
    node->job = job;
    node->seed = seed;
    node->kept = std::move(kept);
    Py_INCREF(arguments[4]);
    node->owner = std::make_unique<c10::SafePyObject>(arguments[4], getPyInterpreter());
    torch::autograd::set_history(out, node);
  }
  return THPVariable_Wrap(std::move(out));
  END_HANDLE_TH_ERRORS
}

// (address of forward, address of backward, check_rows, naive_gradient): once, before any sample
PyObject* connect(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 4, "connect takes two addresses and two functions");
  forward_kernel = reinterpret_cast<Forward>(PyLong_AsVoidPtr(arguments[0]));
  backward_kernel = reinterpret_cast<Backward>(PyLong_AsVoidPtr(arguments[1]));
  if (PyErr_Occurred()) return nullptr;
  Py_INCREF(arguments[2]);
  Py_INCREF(arguments[3]);
  Py_XDECREF(check_rows);
  Py_XDECREF(naive_gradient);
  check_rows = arguments[2];
  naive_gradient = arguments[3];
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyObject* forget_spare(PyObject*, PyObject*) {
  Room::forget_spare();
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"forget_spare", forget_spare, METH_NOARGS, nullptr},
    {"sample", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(sample)), METH_FASTCALL, nullptr},
    {"connect", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(connect)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_node", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__node() { return PyModule_Create(&definition); }
