// The spans of positions that a query sees under a SparsePatternSpec. Pure functions of their
// arguments, so that decoding repeats what the prompt saw.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "engine/model/model_spec.h"
#include "engine/model/sparse_limits.h"
#include "kernels/backend.h"

namespace sluice {

// `count` <= kMaxRandomBlocks different numbers below `candidates`, ascending: Floyd's algorithm
// (Bentley and Floyd 1987) on draws hash * bound >> 32, where hash is the upper half of the n-th
// output of SplitMix64 (Steele et al. 2014) seeded with the mix of seed, head and block.
std::array<int32_t, kMaxRandomBlocks> DrawBlocks(
    int64_t seed, int32_t head, int64_t block, int32_t count, int64_t candidates);

class SparsePattern {
 public:
  SparsePattern(const SparsePatternSpec& spec, MaskKind mask) : spec_(spec), mask_(mask) {}

  // Spans of one query: always as many, empty ones where fewer are needed.
  int32_t num_spans() const { return 3 + spec_.random_blocks + spec_.first_repeats; }
  // Whether the heads of a row see different keys.
  bool by_head() const { return spec_.random_blocks > 0; }

  // What the query at `position` sees of a sequence of `length` positions (which a causal query
  // does not look at). out: [num_spans()].
  void Fill(int32_t position, int32_t length, int32_t head, std::span<kernels::KvSpan> out) const;

 private:
  SparsePatternSpec spec_;
  MaskKind mask_;
};

}  // namespace sluice
