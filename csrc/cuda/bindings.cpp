// crrl._cuda takes pointers and sizes from Python; crrl/ops/gru/cuda.py checks them. The only pybind11 file.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "gru.hpp"
#include "machine.hpp"

#ifdef CRRL_EMULATED
#include "primitives.hpp"
#define CRRL_MODULE crrl_cuda_host
#else
#define CRRL_MODULE _cuda
#endif

namespace py = pybind11;

namespace {

using namespace crrl::gru_cuda;

using Address = uintptr_t;
using Strided = std::tuple<Address, int64_t, int64_t>;  // address, elements from row to row, from frame to frame
using Shape = std::array<int, 3>;                       // batch, steps, hidden
using ForwardTuple = std::tuple<Strided, Address, Address, Address, Address, Strided, Address, Strided, bool>;
using BackwardTuple = std::tuple<Address, Address, Strided, Strided, Address, Strided, Address, bool>;

Mode mode_of(const std::string& name) {
  if (name == "tf32") return Mode::kTF32;
  if (name == "fp32") return Mode::kFP32;
  if (name == "bf16") return Mode::kBF16;
  if (name == "fp16") return Mode::kFP16;
  throw std::invalid_argument("a mode is tf32, fp32, bf16 or fp16, not " + name);
}

void* pointer(Address address) { return reinterpret_cast<void*>(address); }

const int64_t* lengths(Address address) { return reinterpret_cast<const int64_t*>(address); }

Frames frames(const Strided& strided) {
  return {pointer(std::get<0>(strided)), std::get<1>(strided), std::get<2>(strided)};
}

ForwardChain chain(const ForwardTuple& tuple) {
  const auto& [gates, w_hh, b_hh, h0, length, y, h_n, reserve, reverse] = tuple;
  return {frames(gates), pointer(w_hh), pointer(b_hh),   pointer(h0), lengths(length),
          frames(y),     pointer(h_n),  frames(reserve), reverse};
}

BackwardChain chain(const BackwardTuple& tuple) {
  const auto& [w_hh, length, reserve, dy, dh_n, dgates, dh0, reverse] = tuple;
  return {pointer(w_hh), lengths(length), frames(reserve), frames(dy),
          pointer(dh_n), frames(dgates),  pointer(dh0),    reverse};
}

// Calls `forward` or `backward` of gru.hpp with the arguments from Python.
template <class Tuple, class Chain, class Run>
void call(const Run& run, const std::string& mode, const Shape& shape, const std::vector<Tuple>& tuples,
          const Plan& plan, Address workspace, Address status, int64_t patience_ns, int device, Address stream) {
  if (tuples.empty() || tuples.size() > kMaxChains) throw std::invalid_argument("one to four chains, please");
  std::vector<Chain> chains;
  for (const Tuple& tuple : tuples) chains.push_back(chain(tuple));
  const Sizes sizes = {static_cast<int>(chains.size()), shape[0], shape[1], shape[2]};
  const std::string error = run(mode_of(mode), sizes, chains.data(), plan, pointer(workspace),
                                static_cast<int*>(pointer(status)), patience_ns, device, pointer(stream));
  if (!error.empty()) throw std::runtime_error(error);
}

}  // namespace

PYBIND11_MODULE(CRRL_MODULE, module) {
  module.attr("abi") = 1;
  module.attr("targets") = crrl::machine::targets();
  module.attr("toolkit") = crrl::machine::toolkit();
  module.def("problem", &crrl::machine::problem, "Why no GPU can be used, or None.");

  py::class_<Plan>(module, "GruPlan", py::module_local(), "How a call is spread over the GPU (csrc/cuda/gru.hpp).")
      .def_readonly("variant", &Plan::variant)
      .def_readonly("reason", &Plan::reason)
      .def_readonly("blocks", &Plan::blocks)
      .def_readonly("units", &Plan::units)
      .def_readonly("rows", &Plan::rows)
      .def_readonly("teams", &Plan::teams)
      .def_readonly("shared", &Plan::shared)
      .def_readonly("workspace", &Plan::workspace);

  module.def(
      "gru_plan",
      [](const std::string& mode, bool backward, int chains, int batch, int steps, int hidden, int device,
         const std::string& variant) {
        return plan(mode_of(mode), backward, {chains, batch, steps, hidden}, device, variant);
      },
      py::arg("mode"), py::arg("backward"), py::arg("chains"), py::arg("batch"), py::arg("steps"), py::arg("hidden"),
      py::arg("device"), py::arg("variant") = "");
  module.def("gru_forward",
             [](const std::string& mode, const Shape& shape, const std::vector<ForwardTuple>& chains, const Plan& plan,
                Address workspace, Address status, int64_t patience_ns, int device, Address stream) {
               call<ForwardTuple, ForwardChain>(forward, mode, shape, chains, plan, workspace, status, patience_ns,
                                                device, stream);
             });
  module.def("gru_backward",
             [](const std::string& mode, const Shape& shape, const std::vector<BackwardTuple>& chains, const Plan& plan,
                Address workspace, Address status, int64_t patience_ns, int device, Address stream) {
               call<BackwardTuple, BackwardChain>(backward, mode, shape, chains, plan, workspace, status, patience_ns,
                                                  device, stream);
             });

#ifdef CRRL_EMULATED
  namespace host = crrl::gpu::host;
  module.def("set_schedule", &host::set_schedule);
  module.def("set_fault", &host::set_fault, py::arg("send") = 0, py::arg("release") = 0);
  module.def(
      "set_device",
      [](int major, int multiprocessors, size_t shared, bool cooperative) {
        host::set_device_facts({major, 0, multiprocessors, shared, cooperative});
      },
      py::arg("major") = 9, py::arg("multiprocessors") = 132, py::arg("shared") = 232448,
      py::arg("cooperative") = true);
#endif
}
