// Of a program with CUDA: "cuda" is there before main, and tests take managed memory.
#include <cuda_runtime.h>

#include "kernels/backend_factory.h"
#include "kernels/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_limits.h"
#include "kernels/machine_limits.h"
#include "tests/support/device_allocation.h"

namespace sluice::kernels {
namespace {

const bool registered = [] {
  SetCudaFactory(&cuda::CudaBackend::Create);
  SetCudaMeasurement(&cuda::MeasureDevice);
  return true;
}();

}  // namespace

void* AllocateForDevice(size_t bytes) {
  void* data = nullptr;
  SLUICE_CHECK(cudaMallocManaged(&data, bytes == 0 ? 1 : bytes) == cudaSuccess) << bytes;
  return data;
}

void FreeForDevice(void* data) { SLUICE_CHECK(cudaFree(data) == cudaSuccess); }

}  // namespace sluice::kernels
