#include "primitives.hpp"

namespace crrl::gpu {

namespace {

const char* problem(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // so that nobody else finds it
  return cudaGetErrorString(error);
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
  if (how.cluster > 8) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return error;
  }
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(how.shared));
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
  // Code compiled from PTX of before sm_90 has no clusters, whatever GPU it runs on.
  if (problem(cudaFuncGetAttributes(&built, kernel)) || built.ptxVersion < 90) return 0;
  int clusters = 0;
  if (problem(prepare(kernel, how, &config, attributes))) return 0;
  if (problem(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config))) return 0;
  return clusters;
}

}  // namespace detail
}  // namespace crrl::gpu
