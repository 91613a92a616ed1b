#include "kernels/cuda/device.h"

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace sluice::kernels::cuda {
namespace {

absl::Status Failed(cudaError_t error) {
  return absl::FailedPreconditionError(
      absl::StrCat("the CUDA device: ", cudaGetErrorString(error)));
}

}  // namespace

absl::StatusOr<Device> OpenDevice(const std::string& name) {
  Device device;
  absl::string_view number = name;
  if (absl::ConsumePrefix(&number, "cuda:") &&
      (!absl::SimpleAtoi(number, &device.index) || device.index < 0))
    return absl::InvalidArgumentError(absl::StrCat("unknown device: ", name));
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    return absl::FailedPreconditionError(
        absl::StrCat("no CUDA device: ", cudaGetErrorString(error),
                     "; --device cuda needs a GPU that `nvidia-smi` lists and a driver for CUDA ",
                     CUDART_VERSION / 1000, "; without them use --device cpu"));
  }
  if (device.index >= count) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " is not there: this machine has ", count, " CUDA devices"));
  }
  if (const cudaError_t error = cudaSetDevice(device.index); error != cudaSuccess)
    return Failed(error);
  cudaDeviceProp facts;
  if (const cudaError_t error = cudaGetDeviceProperties(&facts, device.index); error != cudaSuccess)
    return Failed(error);
  if (facts.major < 8 || facts.concurrentManagedAccess == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(facts.name, " has compute capability ", facts.major, ".", facts.minor,
                     "; 8.0 and managed memory on Linux are needed"));
  }
  device.multiprocessors = facts.multiProcessorCount;
  device.l2_bytes = facts.l2CacheSize;
  device.description = absl::StrCat(facts.name, ", sm_", facts.major, facts.minor, ", ",
                                    facts.multiProcessorCount, " multiprocessors");
  return device;
}

}  // namespace sluice::kernels::cuda
