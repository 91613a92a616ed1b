// What one execution of a block stores in the KV cache.
#pragma once

#include <optional>

#include "engine/blocks/kv_placement.h"
#include "engine/model/model_spec.h"

namespace sluice {

struct KvNeed {
  kernels::KvGeometry geometry;
  KvRule rule;
  bool second_stream = false;
  bool from_encoder = false;
  bool routed = false;  // rows that skip the layer are missing
};

// Of keys and values beside weights of a format, unless a flag says otherwise.
constexpr kernels::DType KvDTypeFor(kernels::WeightFormat weights) {
  return weights == kernels::WeightFormat::kF32 ? kernels::DType::kF32 : kernels::DType::kBF16;
}

// None: the block stores nothing. `depth`: the router whose skipped rows leave no keys; null: every
// row leaves one.
std::optional<KvNeed> KvNeedOf(const BlockSpec& block,
                               const DepthRouterSpec* depth,
                               kernels::DType dtype);

// Columns of the keys and values of an execution; 0 of other blocks than an Attention.
int64_t KvWidth(const BlockSpec& block);
// Those of all attentions of a group that stores some again in later repeats; else 0.
int64_t KeptWidth(const LayerGroupSpec& group);

}  // namespace sluice
