// Runs the blocks of a launch one after the other, their threads as stacks that hand over at
// barriers.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>

namespace cuda_emulation {

void RunGrid(dim3 grid, dim3 size, size_t shared_bytes, const std::function<void()>& body);

}  // namespace cuda_emulation
