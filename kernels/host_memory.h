// Aligned, zeroed host memory for the backends that compute on the CPU.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/buffer.h"

namespace sluice::kernels {

// 64-byte aligned; huge-page advised from 16 KiB up, 2 MiB aligned from 2 MiB up. ResourceExhausted
// when the system refuses. Any thread.
absl::StatusOr<Buffer> AllocateHost(size_t bytes);

}  // namespace sluice::kernels
