// Finds the GPU that a name means, and refuses those that the kernels do not run on.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "absl/status/statusor.h"

namespace sluice::kernels::cuda {

struct Device {
  int index = 0;
  int multiprocessors = 0;
  int64_t l2_bytes = 0;
  std::string description;  // "NVIDIA H100 80GB HBM3, sm_90, 132 multiprocessors"
};

// `name`: "cuda" or "cuda:N". Makes the device that of this thread. InvalidArgument for another
// name, FailedPrecondition when there is no such device, or it is too old.
absl::StatusOr<Device> OpenDevice(const std::string& name);

}  // namespace sluice::kernels::cuda
