// exchange.cu as a Python module; compiled with CRRL_EMULATED it is of tests/cuda's emulated GPU.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <tuple>

#include "exchange.hpp"

#ifdef CRRL_EMULATED
#include "primitives.hpp"
#endif

namespace py = pybind11;

namespace {

using crrl::gru_cuda::ExchangeCase;
using Address = uintptr_t;
using ExchangeTuple = std::tuple<std::string, int, int, int, int>;

ExchangeCase made(const ExchangeTuple& tuple) {
  const auto& [way, itemsize, blocks, teams, rounds] = tuple;
  return {way, itemsize, blocks, teams, rounds};
}

void* pointer(Address address) { return reinterpret_cast<void*>(address); }

}  // namespace

PYBIND11_MODULE(crrl_bench_exchange, module) {
  module.def("workspace", [](const ExchangeTuple& which) { return crrl::gru_cuda::exchange_workspace(made(which)); });
  module.def("exchange", [](const ExchangeTuple& which, Address result, Address workspace, Address status,
                            int64_t patience_ns, int device, Address stream) {
    const std::string error =
        crrl::gru_cuda::exchange(made(which), pointer(result), pointer(workspace), static_cast<int*>(pointer(status)),
                                 patience_ns, device, pointer(stream));
    if (!error.empty()) throw std::runtime_error(error);
  });
#ifdef CRRL_EMULATED
  module.def("set_schedule", &crrl::gpu::host::set_schedule);
  module.def("set_fault", &crrl::gpu::host::set_fault, py::arg("send") = 0, py::arg("release") = 0);
#endif
}
