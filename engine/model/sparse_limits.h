// The limit that the mappings, the rules of a spec and the kernels' patterns share.
#pragma once

#include <cstdint>

namespace sluice {

inline constexpr int32_t kMaxRandomBlocks = 64;  // of SparsePatternSpec

}  // namespace sluice
