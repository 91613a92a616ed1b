#include "engine/model/model_spec_repeat.h"

#include "engine/model/model_spec_rules.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

using spec_rules::Invalid;
using spec_rules::NotRun;

// A halting group is one layer whose only attention reads the mixed state.
absl::Status CheckSecondStream(const std::string& path, const LayerGroupSpec& group) {
  int attentions = 0;
  int second_streams = 0;
  for (const LayerSpec& layer : group.layers) {
    for (const SublayerSpec& sublayer : layer.sublayers) {
      attentions += std::holds_alternative<LatentAttentionSpec>(sublayer.block) ? 1 : 0;
      const auto* attention = std::get_if<AttentionSpec>(&sublayer.block);
      if (attention == nullptr) continue;
      ++attentions;
      // Logits by distance count slots, and a class of the group's own lacks rows that stopped.
      if (attention->relative.has_value() && group.repeat.rows_may_stop() &&
          attention->kv_source != KvSource::kSecondStream)
        return NotRun(path, "relative positions where rows may stop");
      second_streams += attention->kv_source == KvSource::kSecondStream ? 1 : 0;
    }
  }
  if (group.repeat.halting != HaltingKind::kStickBreaking) {
    return second_streams == 0 ? absl::OkStatus()
                               : Invalid(path, "a second stream needs stick-breaking halting");
  }
  if (group.layers.size() == 1 && attentions == 1 && second_streams == 1) return absl::OkStatus();
  return NotRun(path, "halting of other than one layer with one attention to the second stream");
}

}  // namespace

absl::Status CheckRepeatParts(const std::string& path, const LayerGroupSpec& group) {
  const RepeatSpec& repeat = group.repeat;
  if (repeat.halting == HaltingKind::kAct || repeat.halting == HaltingKind::kConvergence)
    return NotRun(path + ".halting", "this kind of halting");
  if (repeat.depth_router.has_value() != (repeat.halting == HaltingKind::kChosenDepth))
    return Invalid(path + ".depth_router", "must be there exactly when the depth is chosen");
  if (repeat.gate.has_value() != (repeat.halting == HaltingKind::kStickBreaking))
    return Invalid(path + ".gate", "must be there exactly when halting is stick-breaking");
  RETURN_IF_ERROR(CheckSecondStream(path, group));
  if (repeat.injection.has_value() && repeat.halting != HaltingKind::kNone)
    return NotRun(path + ".injection", "an injection with halting");
  if (repeat.adjustable && repeat.halting != HaltingKind::kNone)
    return NotRun(path + ".adjustable", "a request's depth with halting");
  for (const LayerSpec& layer : group.layers) {
    if (repeat.rows_may_stop() && layer.depth.has_value())
      return NotRun(path, "a depth-routed layer where rows may stop");
  }
  return absl::OkStatus();
}

}  // namespace sluice
