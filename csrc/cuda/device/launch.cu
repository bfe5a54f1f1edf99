#include <cuda_runtime_api.h>

#include <mutex>
#include <set>
#include <utility>

#include "launch.hpp"

namespace crrl::gpu {

namespace {

const char* problem(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // clears the error, so that no later caller finds it
  return cudaGetErrorString(error);
}

// Allows a kernel all the shared memory, and all cluster sizes, that the current device offers, once for both. It
// allows the most and not what one call needs, because other threads, and nodes of one graph, launch the same kernel
// with other needs.
cudaError_t open_up(const void* kernel, bool clusters) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> open;
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const std::lock_guard<std::mutex> lock(mutex);
  if (open.count({kernel, device}) != 0) return cudaSuccess;
  cudaFuncAttributes built;
  error = cudaFuncGetAttributes(&built, kernel);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error == cudaSuccess && clusters) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  if (error == cudaSuccess) {
    most -= static_cast<int>(built.sharedSizeBytes);
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  }
  if (error == cudaSuccess) open.insert({kernel, device});
  return error;
}

cudaError_t prepare(const void* kernel, const Launch& how, cudaLaunchConfig_t* config,
                    cudaLaunchAttribute* attributes) {
  *config = {};
  config->gridDim = dim3(how.blocks);
  config->blockDim = dim3(how.threads);
  config->dynamicSmemBytes = how.shared;
  config->stream = static_cast<cudaStream_t>(how.stream);
  config->attrs = attributes;
  if (how.cluster > 1) {
    attributes[config->numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config->numAttrs++].val.clusterDim = {static_cast<unsigned>(how.cluster), 1, 1};
  }
  if (how.cooperative) {
    attributes[config->numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config->numAttrs++].val.cooperative = 1;
  }
  return open_up(kernel, how.cluster > 1);
}

}  // namespace

const char* device_facts(int device, Device* facts) {
  int shared = 0, cooperative = 0;
  const struct {
    int* to;
    cudaDeviceAttr attribute;
  } wanted[] = {
      {&facts->major, cudaDevAttrComputeCapabilityMajor},
      {&facts->minor, cudaDevAttrComputeCapabilityMinor},
      {&facts->multiprocessors, cudaDevAttrMultiProcessorCount},
      {&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin},
      {&cooperative, cudaDevAttrCooperativeLaunch},
  };
  for (const auto& fact : wanted) {
    if (const char* error = problem(cudaDeviceGetAttribute(fact.to, fact.attribute, device))) return error;
  }
  facts->shared = static_cast<size_t>(shared);
  facts->cooperative = cooperative != 0;
  return nullptr;
}

const char* zero(void* memory, size_t bytes, void* stream) {
  return problem(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)));
}

namespace detail {

const char* launch(const void* kernel, const Launch& how, void** arguments) {
  cudaLaunchConfig_t config;
  cudaLaunchAttribute attributes[2];
  if (const char* error = problem(prepare(kernel, how, &config, attributes))) return error;
  return problem(cudaLaunchKernelExC(&config, kernel, arguments));
}

int clusters_at_once(const void* kernel, const Launch& how) {
  cudaLaunchConfig_t config;
  cudaLaunchAttribute attributes[2];
  cudaFuncAttributes built;
  // Code compiled from PTX older than sm_90 has no clusters, whatever GPU it runs on.
  if (problem(cudaFuncGetAttributes(&built, kernel)) || built.ptxVersion < 90) return 0;
  int clusters = 0;
  if (problem(prepare(kernel, how, &config, attributes))) return 0;
  if (problem(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config))) return 0;
  return clusters;
}

}  // namespace detail
}  // namespace crrl::gpu
