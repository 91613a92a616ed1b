// Where tests take the memory that ops read: the heap, or what CUDA manages in programs that have
// it.
#pragma once

#include <cstddef>

namespace sluice::kernels {

void* AllocateForDevice(size_t bytes);
void FreeForDevice(void* data);

}  // namespace sluice::kernels
