// The usual call with its autograd node in C++: what `compiled.autograd` does in Python, with fewer steps (stands twice
// since not everybody can build this; `tests/test_kernels_node.py` holds the two together). Optional, compiled by
// `catreparam build` against the torch that is installed; calls the kernels through their C interface.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <c10/core/SafePyObject.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/utils/object_ptr.h>

#include "memory.h"

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

using catreparam::kFlagNoMemory;
using catreparam::kInvalid;
using catreparam::kLargestSeed;
using catreparam::nobody_holds;
using catreparam::Room;

catreparam::Run run_kernel = nullptr;
PyObject* make_owner = nullptr;       // (setting, rows) -> (setting, job), whose address and kept_floats count, or None
PyObject* check_rows = nullptr;       // rows -> raises the right error, unless validation is off
PyObject* naive_gradient = nullptr;   // (owner, rows, upstream, seed) -> the gradient by the naive twin, differentiable

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

  void release_variables() override { rows.reset_data(), kept.reset(); }

  variable_list apply(variable_list&& upstreams) override {
    Tensor upstream = std::move(upstreams[0]);
    if (!upstream.defined()) return {Tensor()};
    const Tensor logits = rows.unpack();
    if (at::GradMode::is_enabled() || !upstream.has_storage()) return {naive(logits, upstream)};  // or a batch under vmap
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor at = logits.contiguous();
    upstream = upstream.resolve_neg().to(at.scalar_type()).contiguous();
    // An upstream gradient that nobody holds makes room for this one: fresh pages cost more than filling them.
    const Tensor gradient = nobody_holds(upstream) ? upstream : at::empty(at.sizes(), at.options());
    const int32_t flags = run_kernel(job, at::get_num_threads(), seed, at.data_ptr(), kept ? kept->data() : nullptr,
                                     gradient.data_ptr(), nullptr, nullptr, upstream.data_ptr());
    TORCH_CHECK_WITH(OutOfMemoryError, !(flags & kFlagNoMemory), "no memory for the scratch of ", at.size(-1), " classes");
    return {gradient};
  }

  Tensor naive(const Tensor& logits, const Tensor& upstream) const {
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

// The library's own form of a setting for so many rows and classes of a dtype.
struct Job {
  const void* address;
  int64_t floats_to_keep;
  PyObject* owner;  // (setting, job) in Python: keeps both alive, so that no other setting comes to lie where this one is;
                    // null: the library has no kernel for the method
};

struct Key {
  PyObject* setting;
  int64_t rows, classes;
  at::ScalarType dtype;
  bool operator==(const Key& other) const {
    return setting == other.setting && rows == other.rows && classes == other.classes && dtype == other.dtype;
  }
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    size_t hash = reinterpret_cast<size_t>(key.setting) >> 4;
    for (const size_t part : {(size_t)key.rows, (size_t)key.classes, (size_t)key.dtype})
      hash = hash * 0x9E3779B97F4A7C15u + part;
    return hash ^ (hash >> 32);
  }
};

using Jobs = std::unordered_map<Key, Job, KeyHash>;
constexpr size_t kMostJobs = 4096;

Jobs& known_jobs() {  // read and changed under the GIL; never destroyed, Python may be gone by then
  static auto* const jobs = new Jobs;
  return *jobs;
}

void forget_jobs() {
  Jobs forgotten;
  forgotten.swap(known_jobs());  // releasing an owner may run Python code
  for (const auto& [key, job] : forgotten) Py_DECREF(job.owner);
}

Job job_for(PyObject* setting, PyObject* rows_object, const Tensor& rows) {
  const int64_t classes = rows.size(-1);
  const Key key{setting, rows.numel() / classes, classes, rows.scalar_type()};
  const auto found = known_jobs().find(key);
  if (found != known_jobs().end()) return found->second;
  THPObjectPtr owner(PyObject_CallFunctionObjArgs(make_owner, setting, rows_object, nullptr));
  if (!owner) throw_python_error();
  if (owner.get() == Py_None) return {nullptr, 0, nullptr};
  TORCH_CHECK_TYPE(PyTuple_CheckExact(owner.get()) && PyTuple_GET_SIZE(owner.get()) == 2, "an owner is (setting, job)");
  PyObject* const made = PyTuple_GET_ITEM(owner.get(), 1);
  THPObjectPtr address(PyObject_GetAttrString(made, "address")), floats(PyObject_GetAttrString(made, "kept_floats"));
  if (!address || !floats) throw_python_error();
  Job job{PyLong_AsVoidPtr(address.get()), PyLong_AsLongLong(floats.get()), owner.release()};
  if (known_jobs().size() >= kMostJobs) forget_jobs();
  const auto [place, fresh] = known_jobs().emplace(key, job);
  if (!fresh) Py_DECREF(job.owner);  // another thread was faster
  return place->second;
}

// Whether nothing but the kernels has to be thought of. What the caller has to notice: compiled code and torch.func.
bool is_usual(PyObject* rows, PyObject* generator) {
  if (!THPVariable_CheckExact(rows)) return false;
  if (generator != Py_None && Py_TYPE(generator) != reinterpret_cast<PyTypeObject*>(THPGeneratorClass)) return false;
  const Tensor& tensor = THPVariable_Unpack(rows);
  const auto dtype = tensor.scalar_type();
  return (dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf) && tensor.device().is_cpu() &&
      tensor.layout() == at::kStrided && !tensor.is_nested() && tensor.dim() > 0 && tensor.size(-1) > 0 &&
      (generator == Py_None || reinterpret_cast<THPGenerator*>(generator)->cdata.device().is_cpu()) &&
      !tensor.is_neg() && c10::impl::TorchDispatchModeTLS::stack_len() == 0 && !torch::jit::tracer::isTracing();
}

// (setting, rows, generator or None) -> sample, or None where the call is none of the usual kind
PyObject* sample(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 3, "sample takes a setting, rows, and a generator or None");
  if (!is_usual(arguments[1], arguments[2])) Py_RETURN_NONE;
  const Tensor& rows = THPVariable_Unpack(arguments[1]);
  const Job job = job_for(arguments[0], arguments[1], rows);
  if (job.owner == nullptr) Py_RETURN_NONE;
  const uint64_t seed = draw_seed(arguments[2]);
  const bool differentiable = rows.requires_grad() && at::GradMode::is_enabled();
  std::unique_ptr<Room> kept;
  Tensor out;
  int32_t flags = 0;
  THPObjectPtr owner(Py_NewRef(job.owner));
  {
    pybind11::gil_scoped_release no_gil;
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor at = rows.contiguous();
    out = at::empty(at.sizes(), at.options());
    if (differentiable && job.floats_to_keep > 0) kept = std::make_unique<Room>(job.floats_to_keep);
    flags = run_kernel(job.address, at::get_num_threads(), seed, at.data_ptr(), kept ? kept->data() : nullptr,
                       out.data_ptr(), nullptr, nullptr, nullptr);
  }
  TORCH_CHECK_WITH(OutOfMemoryError, !(flags & kFlagNoMemory), "no memory for the scratch of ", rows.size(-1), " classes");
  if (flags & kInvalid) {
    THPObjectPtr checked(PyObject_CallFunctionObjArgs(check_rows, arguments[1], nullptr));
    if (!checked) return nullptr;
  }
  if (differentiable) {
    auto node = make_node<CategoricalSampleBackward>();
    node->set_next_edges(torch::autograd::collect_next_edges(rows));
    node->rows = SavedVariable(rows, false);
    node->job = job.address;
    node->seed = seed;
    node->kept = std::move(kept);
    node->owner = std::make_unique<c10::SafePyObject>(owner.release(), getPyInterpreter());
    torch::autograd::set_history(out, node);
  }
  return THPVariable_Wrap(std::move(out));
  END_HANDLE_TH_ERRORS
}

// (address of Run, make_owner, check_rows, naive_gradient): once, before any sample
PyObject* connect(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 4, "connect takes an address and three functions");
  run_kernel = reinterpret_cast<catreparam::Run>(PyLong_AsVoidPtr(arguments[0]));
  if (PyErr_Occurred()) return nullptr;
  PyObject** const functions[] = {&make_owner, &check_rows, &naive_gradient};
  for (int i = 0; i < 3; ++i) {
    Py_INCREF(arguments[1 + i]);
    Py_XDECREF(*functions[i]);
    *functions[i] = arguments[1 + i];
  }
  forget_jobs();
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyObject* forget(PyObject*, PyObject*) {
  forget_jobs();
  Room::forget_spare();
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"forget", forget, METH_NOARGS, nullptr},
    {"sample", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(sample)), METH_FASTCALL, nullptr},
    {"connect", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(connect)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_node", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__node() { return PyModule_Create(&definition); }
