// A run of cache slots. On its own because files with ISA flags do not see backend.h.
#pragma once

#include <cstdint>

namespace sluice::kernels {

// Slots [begin, end).
struct KvSpan {
  int32_t begin = 0;
  int32_t end = 0;
};

}  // namespace sluice::kernels
