// The JSON words of the spec's enums. Included by model_spec_fields.h only.
#pragma once

#include <array>
#include <string_view>

#include "engine/model/model_spec.h"

namespace sluice::spec_fields {

// Enum names in the order of their values.
template <typename Enum>
struct EnumNames;

#define SLUICE_ENUM_NAMES(Enum, ...)                                             \
  template <>                                                                    \
  struct EnumNames<Enum> {                                                       \
    static constexpr auto kNames = std::to_array<std::string_view>(__VA_ARGS__); \
  }

SLUICE_ENUM_NAMES(NormKind, {"rms", "layer"});
SLUICE_ENUM_NAMES(RopeStyle, {"half", "interleaved"});
SLUICE_ENUM_NAMES(Activation,
                  {"none", "silu", "relu", "gelu", "gelu_tanh", "tanh", "clamped_swiglu"});
SLUICE_ENUM_NAMES(ScoreFunction, {"softmax", "sigmoid", "softmax_over_top_k"});
SLUICE_ENUM_NAMES(GroupScore, {"max", "top_two_sum"});
SLUICE_ENUM_NAMES(ExpertPick, {"row_top_k", "expert_top_k", "threshold"});
SLUICE_ENUM_NAMES(RopeMix, {"by_rotations", "by_index"});
SLUICE_ENUM_NAMES(ExpertEncoding, {"plain", "mxfp4"});
SLUICE_ENUM_NAMES(GateFunction, {"identity", "sigmoid", "one", "tanh"});
SLUICE_ENUM_NAMES(DepthCombine, {"scaled_update", "plus_block", "only_block"});
SLUICE_ENUM_NAMES(MaskKind, {"causal", "full"});
SLUICE_ENUM_NAMES(KvSource, {"self", "encoder", "second_stream"});
SLUICE_ENUM_NAMES(DepthDecide,
                  {"router_threshold", "predictor_threshold", "router_topk", "prompt_mean"});
SLUICE_ENUM_NAMES(DepthKv, {"routed_only", "all_tokens", "zero_rows"});
SLUICE_ENUM_NAMES(DepthPosition, {"absolute", "compact"});
SLUICE_ENUM_NAMES(DepthGatePlace, {"merge", "last_sublayer"});
SLUICE_ENUM_NAMES(HaltingKind,
                  {"none", "act", "stick_breaking", "convergence", "chosen_depth", "exit_gate"});
SLUICE_ENUM_NAMES(RepeatKv, {"own", "latest", "compute_all", "first"});
SLUICE_ENUM_NAMES(ActOutput, {"basic", "accumulated", "interpolated"});
SLUICE_ENUM_NAMES(Pooling, {"none", "mean", "first"});
SLUICE_ENUM_NAMES(StackRole, {"decoder", "encoder"});
#undef SLUICE_ENUM_NAMES

}  // namespace sluice::spec_fields
