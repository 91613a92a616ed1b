// What a GPU can do at best, measured now (machine_limits.h).
#pragma once

#include "absl/status/statusor.h"
#include "kernels/machine_limits.h"

namespace sluice::kernels::cuda {

// The device of `options`. FailedPrecondition as OpenDevice, ResourceExhausted without memory for
// the buffer, Unavailable when the device fails.
absl::StatusOr<MachineLimits> MeasureDevice(const MachineOptions& options);

}  // namespace sluice::kernels::cuda
