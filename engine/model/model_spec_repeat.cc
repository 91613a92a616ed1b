#include "engine/model/model_spec_repeat.h"

#include "engine/model/model_spec_rules.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

using namespace spec_rules;  // NOLINT(google-build-using-namespace): the vocabulary of this file

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
      const bool by_distance =
          attention->relative.has_value() || attention->position_bias.has_value();
      if (by_distance && group.repeat.rows_may_stop() &&
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

bool IsExit(HaltingKind kind) {
  return kind == HaltingKind::kAct || kind == HaltingKind::kConvergence ||
         kind == HaltingKind::kExitGate;
}

absl::Status CheckExit(const std::string& path, const RepeatSpec& repeat) {
  if (repeat.exit.has_value() != IsExit(repeat.halting))
    return Invalid(path, "must be there exactly when rows stop by a gate or by convergence");
  if (!repeat.exit.has_value()) return absl::OkStatus();
  const ExitSpec& exit = *repeat.exit;
  const bool converges = repeat.halting == HaltingKind::kConvergence;
  if (converges != exit.weight.empty() || (converges && !exit.bias.empty()))
    return Invalid(path, "weight must be named exactly when there is a gate");
  return CheckFloat(path, "threshold", static_cast<double>(exit.threshold), 0.0, 1.0);
}

// Which attentions store more rows than run, or read what another repeat stored.
absl::Status CheckRepeatKv(const std::string& path, const LayerGroupSpec& group) {
  const RepeatSpec& repeat = group.repeat;
  if (repeat.kv == RepeatKv::kOwn) return absl::OkStatus();
  if (repeat.kv != RepeatKv::kFirst && !repeat.exit.has_value())
    return Invalid(path, "latest and compute_all need rows that stop by a gate or by convergence");
  if (repeat.halting == HaltingKind::kStickBreaking)
    return NotRun(path, "a choice of keys and values with stick-breaking");
  if (repeat.kv == RepeatKv::kComputeAll) return absl::OkStatus();
  for (const LayerSpec& layer : group.layers) {
    for (const SublayerSpec& sublayer : layer.sublayers) {
      const auto* attention = std::get_if<AttentionSpec>(&sublayer.block);
      if (std::holds_alternative<LatentAttentionSpec>(sublayer.block) ||
          (attention != nullptr && attention->q.experts.has_value()))
        return NotRun(path, "latest or first with latent attention or query experts");
    }
  }
  return absl::OkStatus();
}

// What is done to the state between the repeats.
absl::Status CheckState(const std::string& path, const RepeatSpec& repeat, int64_t dim) {
  constexpr int64_t kMostSignals = int64_t{1} << 24;
  RETURN_IF_ERROR(CheckNorm(path + ".norm", repeat.norm));
  const bool sticks = repeat.halting == HaltingKind::kStickBreaking;
  if (sticks && (repeat.norm.has_value() || repeat.signal.has_value()))
    return NotRun(path, "a norm or a signal with stick-breaking");
  if (!repeat.signal.has_value()) return absl::OkStatus();
  if (repeat.injection.has_value()) return NotRun(path + ".signal", "a signal with an injection");
  const StepSignalSpec& signal = *repeat.signal;
  if (!signal.positions && !signal.steps)
    return Invalid(path + ".signal", "must be of positions or of steps");
  if (!signal.steps && !signal.step_weight.empty())
    return Invalid(path + ".signal", "step_weight needs steps");
  return CheckRange(path + ".signal", "times * dim", int64_t{repeat.times} * dim, 1, kMostSignals);
}

absl::Status CheckTogether(const std::string& path, const LayerGroupSpec& group) {
  const RepeatSpec& repeat = group.repeat;
  const HaltingKind kind = repeat.halting;
  if (repeat.injection.has_value() && kind != HaltingKind::kNone &&
      kind != HaltingKind::kConvergence && kind != HaltingKind::kExitGate)
    return NotRun(path + ".injection", "an injection with this halting");
  if (repeat.adjustable && kind == HaltingKind::kStickBreaking)
    return NotRun(path + ".adjustable", "a request's depth with this halting");
  for (const LayerSpec& layer : group.layers) {
    if (!layer.depth.has_value()) continue;
    if (repeat.rows_may_stop() || repeat.exit.has_value())
      return NotRun(path, "a depth-routed layer where rows may stop");
    if (repeat.kv == RepeatKv::kFirst)
      return NotRun(path + ".kv", "first with a depth-routed layer");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRepeatParts(const std::string& path, const LayerGroupSpec& group, int64_t dim) {
  const RepeatSpec& repeat = group.repeat;
  if (repeat.depth_router.has_value() != (repeat.halting == HaltingKind::kChosenDepth))
    return Invalid(path + ".depth_router", "must be there exactly when the depth is chosen");
  if (repeat.gate.has_value() != (repeat.halting == HaltingKind::kStickBreaking))
    return Invalid(path + ".gate", "must be there exactly when halting is stick-breaking");
  RETURN_IF_ERROR(CheckExit(path + ".exit", repeat));
  RETURN_IF_ERROR(CheckSecondStream(path, group));
  RETURN_IF_ERROR(CheckRepeatKv(path + ".kv", group));
  RETURN_IF_ERROR(CheckState(path, repeat, dim));
  return CheckTogether(path, group);
}

}  // namespace sluice
