#include "engine/model/kv_need.h"

namespace sluice {
namespace {

KvRule RuleOf(const AttentionSpec& spec, const DepthRouterSpec* depth) {
  KvRule rule{.window = spec.window,
              .full = spec.mask == MaskKind::kFull || spec.kv_source == KvSource::kEncoder};
  if (depth == nullptr) return rule;
  rule.compact = depth->position == DepthPosition::kCompact;
  rule.zero_rows = depth->kv == DepthKv::kZeroRows;
  return rule;
}

}  // namespace

std::optional<KvNeed> KvNeedOf(const BlockSpec& block,
                               const DepthRouterSpec* depth,
                               kernels::DType dtype) {
  KvNeed need{.routed = depth != nullptr};
  if (const auto* attention = std::get_if<AttentionSpec>(&block)) {
    need.geometry = {.num_kv_heads = attention->num_kv_heads,
                     .key_dim = attention->head_dim,
                     .value_dim = attention->head_dim,
                     .dtype = dtype};
    need.rule = RuleOf(*attention, depth);
    need.second_stream = attention->kv_source == KvSource::kSecondStream;
    need.from_encoder = attention->kv_source == KvSource::kEncoder;
    return need;
  }
  if (const auto* latent = std::get_if<LatentAttentionSpec>(&block)) {
    need.geometry = {.num_kv_heads = 1,
                     .key_dim = latent->rope_dim + latent->latent_dim,
                     .value_dim = latent->latent_dim,
                     .dtype = dtype,
                     .value_in_key = true};
    return need;
  }
  return std::nullopt;
}

int64_t KvWidth(const BlockSpec& block) {
  const auto* attention = std::get_if<AttentionSpec>(&block);
  return attention == nullptr ? 0 : int64_t{2} * attention->num_kv_heads * attention->head_dim;
}

int64_t KeptWidth(const LayerGroupSpec& group) {
  if (group.repeat.halting != HaltingKind::kStickBreaking && group.repeat.kv != RepeatKv::kLatest)
    return 0;
  int64_t width = 0;
  for (const LayerSpec& layer : group.layers) {
    for (const SublayerSpec& sublayer : layer.sublayers) width += KvWidth(sublayer.block);
  }
  return width;
}

}  // namespace sluice
