#include <cstdlib>

#include "kernels/check.h"
#include "tests/support/device_allocation.h"

namespace sluice::kernels {

void* AllocateForDevice(size_t bytes) {
  void* data = std::malloc(bytes);
  SLUICE_CHECK(data != nullptr || bytes == 0);
  return data;
}

void FreeForDevice(void* data) { std::free(data); }

}  // namespace sluice::kernels
