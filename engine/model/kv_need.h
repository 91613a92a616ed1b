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

// None: the block stores nothing. `depth`: the router whose skipped rows leave no keys; null: every
// row leaves one.
std::optional<KvNeed> KvNeedOf(const BlockSpec& block,
                               const DepthRouterSpec* depth,
                               kernels::DType dtype);

}  // namespace sluice
