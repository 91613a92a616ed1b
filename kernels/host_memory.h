// Aligned, zeroed host memory for the backends that compute on the CPU.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/buffer.h"

namespace sluice::kernels {

// 64-byte aligned; 2 MiB aligned and huge-page advised from 2 MiB up. ResourceExhausted when the
// system refuses.
absl::StatusOr<Buffer> AllocateHost(size_t bytes);

}  // namespace sluice::kernels
