// What one execution of a block stores in the KV cache. Only for model_builder.cc.
#pragma once

#include <optional>

#include "engine/blocks/block.h"
#include "engine/model/model_spec.h"

namespace sluice {

struct KvNeed {
  kernels::KvGeometry geometry;
  KvRule rule;
  bool second_stream = false;
  bool from_encoder = false;
};

inline KvRule KvRuleOf(const AttentionSpec& spec, const std::optional<DepthRouterSpec>& depth) {
  KvRule rule{.window = spec.window,
              .full = spec.mask == MaskKind::kFull || spec.kv_source == KvSource::kEncoder};
  if (!depth.has_value()) return rule;
  rule.compact = depth->position == DepthPosition::kCompact;
  rule.zero_rows = depth->kv == DepthKv::kZeroRows;
  return rule;
}

inline std::optional<KvNeed> KvNeedOf(const BlockSpec& block,
                                      const std::optional<DepthRouterSpec>& depth,
                                      kernels::DType dtype) {
  if (const auto* attention = std::get_if<AttentionSpec>(&block)) {
    return KvNeed{{.num_kv_heads = attention->num_kv_heads,
                   .key_dim = attention->head_dim,
                   .value_dim = attention->head_dim,
                   .dtype = dtype},
                  KvRuleOf(*attention, depth),
                  attention->kv_source == KvSource::kSecondStream,
                  attention->kv_source == KvSource::kEncoder};
  }
  if (const auto* latent = std::get_if<LatentAttentionSpec>(&block)) {
    return KvNeed{{.num_kv_heads = 1,
                   .key_dim = latent->rope_dim + latent->latent_dim,
                   .value_dim = latent->latent_dim,
                   .dtype = dtype,
                   .value_in_key = true}};
  }
  return std::nullopt;
}

}  // namespace sluice
