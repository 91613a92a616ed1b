#include "engine/model/last_layer.h"

#include <algorithm>

namespace sluice {
namespace {

// Experts that take a limited number of rows choose among all that are there.
bool RowsAreIndependent(const RouterSpec& router) {
  return router.pick != ExpertPick::kExpertTopK && !router.capacity.has_value();
}

bool RowsAreIndependent(const ProjectionSpec& projection) {
  return !projection.experts.has_value() || RowsAreIndependent(*projection.experts);
}

bool StoresKeysOfOtherRows(const BlockSpec& block) {
  if (std::holds_alternative<LatentAttentionSpec>(block)) return true;
  const auto* attention = std::get_if<AttentionSpec>(&block);
  return attention != nullptr && attention->kv_source == KvSource::kSelf &&
         attention->mask == MaskKind::kCausal && !attention->q.experts.has_value() &&
         RowsAreIndependent(attention->v) && RowsAreIndependent(attention->o);
}

bool RowsAreIndependentWithoutKeys(const BlockSpec& block) {
  if (const auto* moe = std::get_if<MoeFfnSpec>(&block)) return RowsAreIndependent(moe->router);
  return std::holds_alternative<DenseFfnSpec>(block);
}

// Compact positions and zero rows belong to all rows that the layer takes.
bool PlacesArePlain(const DepthRouterSpec& depth) {
  return depth.position == DepthPosition::kAbsolute && depth.kv != DepthKv::kZeroRows;
}

}  // namespace

bool LastLayerCanSkip(const ModelSpec& spec) {
  if (spec.is_encoder() || spec.encoder() != nullptr) return false;
  const LayerGroupSpec& group = spec.decoder().groups.back();
  const RepeatSpec& repeat = group.repeat;
  if (repeat.rows_may_stop() || repeat.halting != HaltingKind::kNone || repeat.exits() ||
      repeat.depth_router.has_value() || repeat.kv != RepeatKv::kOwn)
    return false;
  const LayerSpec& layer = group.layers.back();
  if (layer.depth.has_value() && !PlacesArePlain(*layer.depth)) return false;
  if (layer.sublayers.empty() || !StoresKeysOfOtherRows(layer.sublayers.front().block))
    return false;
  return std::all_of(layer.sublayers.begin() + 1, layer.sublayers.end(),
                     [](const SublayerSpec& s) { return RowsAreIndependentWithoutKeys(s.block); });
}

kernels::RowSet WantedOf(const Rows& rows, ForwardContext& context) {
  const std::span<const int32_t> wanted = context.batch.wanted;
  int32_t* index = context.workspace.Take<int32_t>(rows.count());
  int32_t count = 0;
  size_t next = 0;
  for (int32_t i = 0; i < rows.count(); ++i) {
    while (next < wanted.size() && wanted[next] < rows.origin[i]) ++next;
    if (next == wanted.size()) break;
    if (wanted[next] == rows.origin[i]) index[count++] = i;
  }
  return {index, count, nullptr};
}

}  // namespace sluice
