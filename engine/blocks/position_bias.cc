#include "engine/blocks/position_bias.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/status_macros.h"

namespace sluice {

int32_t PositionBucket(const PositionBiasSpec& spec, MaskKind mask, int32_t key_minus_query) {
  int32_t buckets = spec.num_buckets;
  int32_t first = 0;
  int32_t distance = std::max(0, -key_minus_query);
  if (mask == MaskKind::kFull) {
    buckets /= 2;
    if (key_minus_query > 0) first = buckets;
    distance = std::abs(key_minus_query);
  }
  const int32_t exact = buckets / 2;
  if (distance < exact) return first + distance;
  // In f32, as the published code computes it.
  const auto exact_float = static_cast<float>(exact);
  const float range = static_cast<float>(
      std::log(static_cast<double>(spec.max_distance) / static_cast<double>(exact)));
  const float share = std::log(static_cast<float>(distance) / exact_float) / range;
  const auto large = exact + static_cast<int32_t>(share * static_cast<float>(buckets - exact));
  return first + std::min(large, buckets - 1);
}

absl::StatusOr<PositionBias> LoadPositionBias(const PositionBiasSpec& spec,
                                              MaskKind mask,
                                              int32_t num_heads,
                                              WeightLoader& loader) {
  PositionBias bias;
  bias.zero = mask == MaskKind::kFull ? spec.max_distance : 0;
  bias.size = bias.zero + spec.max_distance + 1;
  ASSIGN_OR_RETURN(const FloatVector stored,
                   loader.Vector(spec.weight, int64_t{spec.num_buckets} * num_heads));
  std::vector<float> values(static_cast<size_t>(stored.size));
  loader.backend().CopyToHost(stored.data(), values.data(), values.size() * sizeof(float));
  std::vector<float> table;
  for (int32_t head = 0; head < num_heads; ++head) {
    for (int32_t i = 0; i < bias.size; ++i) {
      const int32_t bucket = PositionBucket(spec, mask, bias.zero - i);
      table.push_back(values[static_cast<size_t>(bucket * num_heads + head)]);
    }
  }
  ASSIGN_OR_RETURN(bias.table, loader.ToDevice(table));
  return bias;
}

}  // namespace sluice
