#include <cuda_runtime.h>

#include <sstream>

#include "../machine.hpp"

#define CRRL_TEXT_(x) #x
#define CRRL_TEXT(x) CRRL_TEXT_(x)

namespace crrl::machine {

// CRRL_TARGETS: what setup.py gave nvcc, such as sm_90a.compute_121.
std::vector<std::string> targets() {
  std::vector<std::string> result;
  std::istringstream text(CRRL_TEXT(CRRL_TARGETS));
  for (std::string target; std::getline(text, target, '.');) result.push_back(target);
  return result;
}

std::string toolkit() {
  return std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
}

std::optional<std::string> problem() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return std::nullopt;
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    return driver == 0 ? "no NVIDIA driver" : "the NVIDIA driver is older than CUDA " + toolkit() + " needs";
  }
  return error == cudaErrorNoDevice || error == cudaSuccess ? "no GPU" : cudaGetErrorString(error);
}

}  // namespace crrl::machine
