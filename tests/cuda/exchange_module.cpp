// exchange_bench.hpp with addresses, as crrl._cuda has it, and the emulation's switches: for test_exchange.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <tuple>

#include "exchange_bench.hpp"
#include "primitives.hpp"

namespace py = pybind11;

namespace {

using namespace crrl::gru_cuda;
using Tuple = std::tuple<std::string, int, int, int, int, int>;

ExchangeCase exchange(const Tuple& tuple) {
  const auto& [way, itemsize, gates, blocks, teams, rounds] = tuple;
  return {way, itemsize, gates, blocks, teams, rounds};
}

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

}  // namespace

PYBIND11_MODULE(emulated_exchange, module) {
  module.def("exchange_workspace", [](const Tuple& which) { return exchange_workspace(exchange(which)); });
  module.def("exchange_bench", [](const Tuple& which, uintptr_t result, uintptr_t workspace, uintptr_t status,
                                  int64_t patience_ns, int device, uintptr_t stream) {
    const std::string error = exchange_bench(exchange(which), pointer(result), pointer(workspace),
                                             static_cast<int*>(pointer(status)), patience_ns, device, pointer(stream));
    if (!error.empty()) throw std::runtime_error(error);
  });
  module.def("set_schedule", &crrl::gpu::host::set_schedule);
  module.def("set_fault", &crrl::gpu::host::set_fault);
}
