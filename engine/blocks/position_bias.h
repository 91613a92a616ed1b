// T5's relative positions (Raffel et al. 2020, sec. 2.1): a learned bias per head and bucket of the
// distance. Small distances have buckets of their own, larger ones share them logarithmically, and
// everything from max_distance on is one.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/blocks/weight_loader.h"
#include "engine/model/model_spec.h"

namespace sluice {

// The bucket of key position - query position (transformers, modeling_t5.py,
// _relative_position_bucket).
int32_t PositionBucket(const PositionBiasSpec& spec, MaskKind mask, int32_t key_minus_query);

// The table that AttentionArgs::relative reads, shared by all rows: [num_heads, size].
struct PositionBias {
  FloatVector table;
  int32_t size = 0;
  int32_t zero = 0;  // index of distance 0; distances grow into the past
};
absl::StatusOr<PositionBias> LoadPositionBias(const PositionBiasSpec& spec,
                                              MaskKind mask,
                                              int32_t num_heads,
                                              WeightLoader& loader);

}  // namespace sluice
