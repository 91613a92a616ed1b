#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/model/model_spec.h"
#include "engine/model/model_spec_repeat.h"
#include "engine/model/model_spec_rules.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

using namespace spec_rules;  // NOLINT(google-build-using-namespace): the vocabulary of this file

constexpr size_t kNumQuantiles = 101;

absl::Status CheckPredictor(const std::string& path, const DepthRouterSpec& depth, int64_t dim) {
  const auto& layers = depth.predictor;
  const bool needed = depth.decide == DepthDecide::kPredictorThreshold ||
                      depth.prefill_decide == DepthDecide::kPredictorThreshold;
  if (layers.empty()) {
    return needed ? Invalid(path, "predictor_threshold needs a predictor") : absl::OkStatus();
  }
  if (layers.size() > 2) return NotRun(path, "a predictor of more than two layers");
  if (layers.size() == 1) return CheckDense(path + "[0]", layers[0], dim, 1);
  RETURN_IF_ERROR(CheckRange(path + "[0]", "out", layers[0].out, 1, kMaxDim));
  RETURN_IF_ERROR(CheckDense(path + "[0]", layers[0], dim, layers[0].out));
  return CheckDense(path + "[1]", layers[1], layers[0].out, 1);
}

absl::Status CheckQuantiles(const std::string& path, const std::vector<float>& quantiles) {
  if (quantiles.empty()) return absl::OkStatus();
  if (quantiles.size() != kNumQuantiles)
    return Invalid(path, "needs 101 values, the percentiles 0 to 100");
  for (size_t i = 0; i < quantiles.size(); ++i) {
    if (!std::isfinite(quantiles[i])) return Invalid(path, "has a value that is not finite");
    if (i > 0 && quantiles[i] < quantiles[i - 1]) return Invalid(path, "must not decrease");
  }
  return absl::OkStatus();
}

// How many rows of a prompt top-k takes, and what their scores become.
absl::Status CheckTopK(const std::string& path, const DepthRouterSpec& depth) {
  RETURN_IF_ERROR(CheckFloat(path, "capacity", depth.capacity, 0.0, 1.0));
  RETURN_IF_ERROR(CheckRange(path, "capacity_rows", depth.capacity_rows, 0, kMaxPositions));
  RETURN_IF_ERROR(CheckRange(path, "min_rows", depth.min_rows, 0, kMaxPositions));
  if (depth.decide == DepthDecide::kRouterTopK) {
    return NotRun(path + ".decide", "router_topk while generating (it may be prefill_decide)");
  }
  const bool top_k = depth.prefill_decide == DepthDecide::kRouterTopK;
  if (top_k && depth.capacity <= 0.0 && depth.capacity_rows == 0)
    return Invalid(path, "router_topk needs a capacity above 0");
  if (top_k && depth.force_first) return NotRun(path + ".force_first", "with router_topk it");
  if (!depth.softmax_over_selected) return absl::OkStatus();
  if (!top_k) return Invalid(path, "softmax_over_selected needs router_topk as prefill_decide");
  if (depth.gate != GateFunction::kIdentity)
    return Invalid(path, "softmax_over_selected needs the identity as gate");
  return absl::OkStatus();
}

// One decision for a prompt, from the mean of its logits.
absl::Status CheckPromptMean(const std::string& path, const DepthRouterSpec& depth) {
  if (depth.decide == DepthDecide::kPromptMean)
    return NotRun(path + ".decide", "prompt_mean while generating (it may be prefill_decide)");
  if (depth.prefill_decide != DepthDecide::kPromptMean) return absl::OkStatus();
  if (depth.hidden.has_value()) return NotRun(path + ".hidden", "prompt_mean of an MLP router");
  if (depth.force_first) return NotRun(path + ".force_first", "with prompt_mean it");
  if (!depth.score_quantiles.empty())
    return Invalid(path + ".score_quantiles", "are of rows, not of the mean of a prompt");
  return absl::OkStatus();
}

absl::Status CheckDepth(const std::string& path, const DepthRouterSpec& depth, int64_t dim) {
  RETURN_IF_ERROR(CheckName(path, "weight", depth.weight));
  RETURN_IF_ERROR(
      CheckFloat(path, "input_scale", static_cast<double>(depth.input_scale), -1e6, 1e6));
  if (depth.hidden.has_value()) {
    RETURN_IF_ERROR(CheckRange(path + ".hidden", "out", depth.hidden->out, 1, kMaxDim));
    RETURN_IF_ERROR(CheckDense(path + ".hidden", *depth.hidden, dim, depth.hidden->out));
  }
  RETURN_IF_ERROR(CheckPredictor(path + ".predictor", depth, dim));
  RETURN_IF_ERROR(CheckFloat(path, "threshold", static_cast<double>(depth.threshold), 0.0, 1.0));
  RETURN_IF_ERROR(CheckTopK(path, depth));
  RETURN_IF_ERROR(CheckFloat(path, "gate_scale", static_cast<double>(depth.gate_scale), -1e3, 1e3));
  RETURN_IF_ERROR(CheckQuantiles(path + ".score_quantiles", depth.score_quantiles));
  if (depth.kv != DepthKv::kRoutedOnly && depth.position == DepthPosition::kCompact)
    return NotRun(path + ".kv", "zero_rows or all_tokens at compact positions");
  return CheckPromptMean(path, depth);
}

bool IsSelfAttention(const BlockSpec& block) {
  const auto* attention = std::get_if<AttentionSpec>(&block);
  return std::holds_alternative<LatentAttentionSpec>(block) ||
         (attention != nullptr && attention->kv_source != KvSource::kEncoder);
}

// Keys of skipped rows are known where they follow from what the routed part of the layer is given.
absl::Status CheckAllTokens(const std::string& path, const LayerSpec& layer) {
  const auto first = static_cast<size_t>(layer.depth->first_sublayer);
  const auto* attention = std::get_if<AttentionSpec>(&layer.sublayers[first].block);
  if (attention == nullptr || !IsSelfAttention(layer.sublayers[first].block))
    return NotRun(path, "all_tokens where the first routed sublayer is no plain attention");
  if (attention->q.experts.has_value()) return NotRun(path, "all_tokens of query experts");
  for (size_t i = first + 1; i < layer.sublayers.size(); ++i) {
    if (IsSelfAttention(layer.sublayers[i].block))
      return NotRun(path, "all_tokens of a second attention");
  }
  return absl::OkStatus();
}

// What the router asks of the sublayers that it routes.
absl::Status CheckRoutedSublayers(const std::string& path, const LayerSpec& layer) {
  RETURN_IF_ERROR(CheckRange(path + ".depth", "first_sublayer", layer.depth->first_sublayer, 0,
                             static_cast<int64_t>(layer.sublayers.size()) - 1));
  if (layer.depth->kv == DepthKv::kAllTokens)
    RETURN_IF_ERROR(CheckAllTokens(path + ".depth.kv", layer));
  if (layer.depth->gate_place == DepthGatePlace::kLastSublayer &&
      layer.sublayers.back().residual_scale != 1.0f)
    return NotRun(path + ".depth.gate_place", "a gated last sublayer with a residual_scale");
  for (const SublayerSpec& sublayer : layer.sublayers) {
    if (std::holds_alternative<LatentAttentionSpec>(sublayer.block) &&
        (layer.depth->position == DepthPosition::kCompact || layer.depth->kv == DepthKv::kZeroRows))
      return NotRun(path + ".depth", "latent attention at compact positions or beside zero_rows");
    const auto* attention = std::get_if<AttentionSpec>(&sublayer.block);
    if (attention == nullptr) continue;
    if (attention->relative.has_value() || attention->position_bias.has_value())
      return NotRun(path + ".depth", "relative positions in a depth-routed layer");
    if (layer.depth->kv != DepthKv::kZeroRows) continue;
    if (attention->sparse.has_value())
      return NotRun(path + ".depth.kv", "zero_rows of sparse attention");
    if (!attention->sinks.empty() || attention->q.experts.has_value())
      return NotRun(path + ".depth.kv", "zero_rows beside attention sinks or query experts");
  }
  return absl::OkStatus();
}

absl::Status CheckLayer(const std::string& path, const LayerSpec& layer, int64_t dim) {
  if (layer.depth.has_value()) RETURN_IF_ERROR(CheckDepth(path + ".depth", *layer.depth, dim));
  // A recursion of Mixture-of-Recursions by expert choice is one layer, two sublayers per block.
  if (layer.sublayers.empty() || layer.sublayers.size() > 128)
    return Invalid(path, "needs 1 to 128 sublayers");
  for (size_t i = 0; i < layer.sublayers.size(); ++i) {
    RETURN_IF_ERROR(
        CheckSublayer(absl::StrCat(path, ".sublayers[", i, "]"), layer.sublayers[i], dim));
  }
  return layer.depth.has_value() ? CheckRoutedSublayers(path, layer) : absl::OkStatus();
}

// The sizes of a repeat; model_spec_repeat.cc says which parts may stand together.
absl::Status CheckRepeat(const std::string& path, const LayerGroupSpec& group, int64_t dim) {
  RETURN_IF_ERROR(CheckRepeatParts(path, group, dim));
  const RepeatSpec& repeat = group.repeat;
  if (repeat.injection.has_value())
    RETURN_IF_ERROR(CheckDense(path + ".injection", *repeat.injection, 2 * dim, dim));
  if (repeat.gate.has_value()) {
    const HaltingGateSpec& gate = *repeat.gate;
    RETURN_IF_ERROR(CheckRange(path + ".gate.hidden", "out", gate.hidden.out, 1, kMaxDim));
    RETURN_IF_ERROR(CheckDense(path + ".gate.hidden", gate.hidden, dim, gate.hidden.out));
    RETURN_IF_ERROR(CheckDense(path + ".gate.out", gate.out, gate.hidden.out, 2));
    RETURN_IF_ERROR(
        CheckFloat(path + ".gate", "threshold", static_cast<double>(gate.threshold), 0.0, 1.0));
  }
  if (!repeat.depth_router.has_value()) return absl::OkStatus();
  const RouterSpec& router = *repeat.depth_router;
  const std::string at = path + ".depth_router";
  RETURN_IF_ERROR(CheckRouter(at, router));
  RETURN_IF_ERROR(CheckEqual(at, "num_experts", router.num_experts, repeat.times));
  RETURN_IF_ERROR(CheckEqual(at, "top_k", router.top_k, 1));
  return CheckEqual(at, "num_null_experts", router.num_null_experts, 0);
}

absl::Status CheckGroup(const std::string& path, const LayerGroupSpec& group, int64_t dim) {
  RETURN_IF_ERROR(CheckRange(path, "repeat.times", group.repeat.times, 1, kMaxLayers));
  RETURN_IF_ERROR(CheckNorm(path + ".output_norm", group.output_norm));
  if (group.layers.empty()) return Invalid(path, "has no layers");
  for (size_t i = 0; i < group.layers.size(); ++i) {
    RETURN_IF_ERROR(CheckLayer(absl::StrCat(path, ".layers[", i, "]"), group.layers[i], dim));
  }
  return CheckRepeat(path + ".repeat", group, dim);
}

bool ChoosesAmongRows(const LayerSpec& layer) {
  for (const SublayerSpec& sublayer : layer.sublayers) {
    const auto* moe = std::get_if<MoeFfnSpec>(&sublayer.block);
    if (moe != nullptr &&
        (moe->router.pick != ExpertPick::kRowTopK || moe->router.capacity.has_value()))
      return true;
  }
  return false;
}

// Experts that look at the rows of a whole prompt need all of them in their layer.
absl::Status CheckWholePrompts(const std::string& path, const StackSpec& stack) {
  bool chooses = false, skips = false;
  for (const LayerGroupSpec& group : stack.groups) {
    skips |= group.repeat.rows_may_stop();
    for (const LayerSpec& layer : group.layers) {
      skips |= layer.depth.has_value();
      chooses |= ChoosesAmongRows(layer);
    }
  }
  return chooses && skips
             ? NotRun(path, "a choice or a capacity of experts beside rows that skip layers")
             : absl::OkStatus();
}

absl::Status CheckStack(const std::string& path, const StackSpec& stack) {
  const EmbeddingSpec& embedding = stack.embedding;
  RETURN_IF_ERROR(
      CheckRange(path + ".embedding", "vocab_size", embedding.vocab_size, 1, kMaxVocab));
  RETURN_IF_ERROR(CheckRange(path + ".embedding", "dim", embedding.dim, 1, kMaxDim));
  RETURN_IF_ERROR(CheckName(path + ".embedding", "weight", embedding.weight));
  RETURN_IF_ERROR(
      CheckFloat(path + ".embedding", "scale", static_cast<double>(embedding.scale), -1e6, 1e6));
  if (!embedding.token_type_weight.empty()) {
    RETURN_IF_ERROR(CheckRange(path + ".embedding", "num_token_types", embedding.num_token_types, 1,
                               kMaxVocab));
  }
  RETURN_IF_ERROR(CheckNorm(path + ".embedding.norm", embedding.norm));
  RETURN_IF_ERROR(CheckNorm(path + ".final_norm", stack.final_norm));
  int64_t executions = 0;
  for (size_t i = 0; i < stack.groups.size(); ++i) {
    const std::string group_path = absl::StrCat(path, ".groups[", i, "]");
    RETURN_IF_ERROR(CheckGroup(group_path, stack.groups[i], embedding.dim));
    for (size_t j = 0; j < i; ++j) {  // the name stands in labels of layers and of KV classes
      if (stack.groups[j].name == stack.groups[i].name)
        return Invalid(group_path, "name is that of another group");
    }
    executions +=
        int64_t{stack.groups[i].repeat.times} * static_cast<int64_t>(stack.groups[i].layers.size());
    RETURN_IF_ERROR(CheckRange(group_path, "number of layers executed", executions, 1, kMaxLayers));
  }
  return CheckWholePrompts(path, stack);
}

}  // namespace

absl::Status ValidateSpec(const ModelSpec& spec) {
  if (spec.stacks.empty()) return Invalid("stacks", "a model needs one");
  if (spec.stacks.size() > 2) return NotRun("stacks", "a third stack");
  for (size_t i = 0; i < spec.stacks.size(); ++i)
    RETURN_IF_ERROR(CheckStack(absl::StrCat("stacks[", i, "]"), spec.stacks[i]));
  RETURN_IF_ERROR(CheckRole(spec));
  const EmbeddingSpec& embedding = spec.decoder().embedding;
  RETURN_IF_ERROR(
      CheckFloat("head", "logit_scale", static_cast<double>(spec.head.logit_scale), -1e6, 1e6));
  RETURN_IF_ERROR(CheckRange("model", "max_positions", spec.max_positions, 1, kMaxPositions));
  for (const int32_t id : spec.eos_token_ids) {
    RETURN_IF_ERROR(CheckRange("model", "eos_token_ids", id, 0, embedding.vocab_size - 1));
  }
  return absl::OkStatus();
}

}  // namespace sluice
