// The CUDA runtime as launch.cu sees it, on a machine without one: two devices, and a list of what was asked of it.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "device/launch.hpp"

namespace py = pybind11;

namespace {

using Asked = std::tuple<std::string, uintptr_t, int, int>;  // what, of which kernel, on which device, how much

std::vector<Asked> asked;
std::mutex mutex;
thread_local int device = 0;
constexpr int kMost[] = {232448, 101376};
constexpr int kOfTheKernel = 32;  // bytes of shared memory that a kernel has anyway

void note(const char* what, const void* kernel, int value) {
  const std::lock_guard<std::mutex> lock(mutex);
  asked.emplace_back(what, reinterpret_cast<uintptr_t>(kernel), device, value);
}

}  // namespace

extern "C" {

cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "an error"; }
cudaError_t cudaGetDevice(int* to) { return *to = device, cudaSuccess; }
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t) { return cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int* to, cudaDeviceAttr attribute, int which) {
  *to = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? kMost[which] : 1;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* to, const void*) {
  *to = {};
  to->sharedSizeBytes = kOfTheKernel;
  to->ptxVersion = 90;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  note(attribute == cudaFuncAttributeMaxDynamicSharedMemorySize ? "shared memory" : "clusters", kernel, value);
  return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void**) {
  note("launch", kernel, static_cast<int>(config->dynamicSmemBytes));
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveClusters(int* to, const void*, const cudaLaunchConfig_t*) {
  return *to = 16, cudaSuccess;
}
}

PYBIND11_MODULE(crrl_cuda_runtime, module) {
  module.def(
      "launch",
      [](uintptr_t kernel, int on, size_t shared, int cluster) {
        device = on;
        const crrl::gpu::Launch how = {cluster, cluster, 256, shared, cluster == 1, nullptr};
        const char* error = crrl::gpu::detail::launch(reinterpret_cast<const void*>(kernel), how, nullptr);
        return std::string(error == nullptr ? "" : error);
      },
      py::call_guard<py::gil_scoped_release>());
  module.def("asked", [] {
    const std::lock_guard<std::mutex> lock(mutex);
    return asked;
  });
}
