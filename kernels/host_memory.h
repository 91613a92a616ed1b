// Aligned, zeroed host memory for the backends that compute on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/buffer.h"

namespace sluice::kernels {

// 64-byte aligned; huge-page advised from 16 KiB up, 2 MiB aligned from 2 MiB up. ResourceExhausted
// when the system refuses. Any thread. Made for buffers that live as long as a model: one of 16 KiB
// to 2 MiB may keep up to 16 MiB resident that its freed neighbours used.
absl::StatusOr<Buffer> AllocateHost(size_t bytes);

// How many buffers AllocateHost has made. An op makes none.
int64_t HostBuffersMade();

}  // namespace sluice::kernels
