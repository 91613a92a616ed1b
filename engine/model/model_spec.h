// The whole architecture as data: what the one forward loop (model.h) runs. Built by a mapping file
// in engine/architectures from a foreign config.json, checked by ValidateSpec, printed by `sluice
// inspect`. Grammar: Model = Embedding Norm? (Group = Repeat x (Layer = DepthRouter? (Norm? Block
// Norm? + residual Norm?)+)+ Norm?)+ Norm Head. A layer is a routed list of sublayers, so
// Mixture-of-Depths around a whole block, its attention or its FFN is one construct. Tensor names
// are those of the checkpoint. No weights and no behaviour here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/model/block_spec.h"
#include "kernels/backend.h"

namespace sluice {

using kernels::DepthCombine;
using kernels::GateFunction;

// x += residual_scale * output_norm(block(input_norm(x))); then x = residual_norm(x).
struct SublayerSpec {
  std::optional<NormSpec> input_norm, output_norm, residual_norm;
  BlockSpec block;
  float residual_scale = 1.0f;
  bool operator==(const SublayerSpec&) const = default;
};

// Mixture-of-Depths, models.md section 1.2.
// kPromptMean: all rows of a prompt or none, by the mean of their router logits.
enum class DepthDecide : uint8_t {
  kRouterThreshold,
  kPredictorThreshold,
  kRouterTopK,
  kPromptMean
};
enum class DepthKv : uint8_t { kRoutedOnly, kAllTokens, kZeroRows };
enum class DepthPosition : uint8_t { kAbsolute, kCompact };
enum class DepthGatePlace : uint8_t { kMerge, kLastSublayer };

struct DepthRouterSpec {
  std::string weight;                    // [1, dim]
  std::string bias;                      // [1]; empty: none
  std::optional<ProjectionSpec> hidden;  // an MLP router: `weight` reads gelu(hidden(x))
  float input_scale = 1.0f;              // of the rows that the router reads
  // Router and predictor read the rows behind the input norm of the layer's first sublayer.
  bool reads_normed = false;
  // Sublayers before this one run for every row, behind the decision.
  int32_t first_sublayer = 0;
  std::vector<ProjectionSpec> predictor;  // none, or 1-2 linear layers with SiLU between
  GateFunction gate = GateFunction::kSigmoid;
  // What g multiplies. kLastSublayer: the output of the layer's last block; the merge then takes 1.
  DepthGatePlace gate_place = DepthGatePlace::kMerge;
  // The gate reads softmax weights over the rows that top-k took of one prompt; a row that was
  // decided by itself has weight 1.
  bool softmax_over_selected = false;
  DepthCombine combine = DepthCombine::kScaledUpdate;
  DepthDecide decide = DepthDecide::kRouterThreshold;
  DepthDecide prefill_decide = DepthDecide::kRouterThreshold;
  // kCompact: rotary positions and windows count the rows of the sequence that this layer took.
  DepthPosition position = DepthPosition::kAbsolute;
  // kZeroRows: a row that skipped the layer is seen by later rows as a zero key and a zero value.
  // kAllTokens: its key and its value are computed and seen as those of a row that was taken.
  DepthKv kv = DepthKv::kRoutedOnly;
  float gate_scale = 1.0f;   // times the gate (Mixture-of-Recursions: alpha)
  bool nested = false;       // only rows that took the depth-routed layer before this one may
  bool force_first = false;  // the threshold rules take position 0 whatever its score
  float threshold = 0.5f;    // on sigmoid(logit): taken iff sigmoid(logit) > threshold
  bool threshold_inclusive = false;  // taken at the threshold too
  double capacity = 0.0;             // trained share of rows
  // Of the n rows of a prompt top-k takes k = max(min_rows, floor(capacity * n)), or min(n,
  // capacity_rows) where that is set; `strict_top_k`, for k > 1: only those above the k-th score.
  int32_t capacity_rows = 0;
  int32_t min_rows = 1;
  bool strict_top_k = false;
  // Percentiles 0..100 of the router logit on calibration text; empty: the capacity knob is
  // refused.
  std::vector<float> score_quantiles;
  bool operator==(const DepthRouterSpec&) const = default;
};

struct LayerSpec {
  std::optional<DepthRouterSpec> depth;
  std::vector<SublayerSpec> sublayers;
  bool operator==(const LayerSpec&) const = default;
};

// kChosenDepth: a router names the number of repeats before the first one (Mixture-of-Recursions).
// kExitGate, kConvergence: decided after each repeat, kAct: before it (ExitSpec).
enum class HaltingKind : uint8_t {
  kNone,
  kAct,
  kStickBreaking,
  kConvergence,
  kChosenDepth,
  kExitGate
};

// Which keys and values a repeat sees.
//  kOwn         those of the rows that ran it;
//  kLatest      also those of rows that stopped before it, as their last repeat left them;
//  kComputeAll  its own of every row: a row that stopped goes on for them, its result does not;
//  kFirst       in every repeat those of the first one, which every row runs.
enum class RepeatKv : uint8_t { kOwn, kLatest, kComputeAll, kFirst };

// How a row's result follows from its states s and the share u that each repeat has of it, from a
// zero result r. kBasic is what tensor2tensor computes, `r * 1 - u`, kInterpolated what the paper's
// listing says (Dehghani et al. 2018, arXiv 1807.03819, appendix C).
//  kBasic s u + r - u;  kAccumulated s u + r;  kInterpolated s u + r (1 - u)
enum class ActOutput : uint8_t { kBasic, kAccumulated, kInterpolated };

// When a row stops. kExitGate: p = sigmoid(weight . state + bias) after each repeat; the first one
// after which 1 - (1 - p_0)(1 - p_1)... reaches the threshold is the last (Ouro, Zhu et al. 2025,
// arXiv 2510.25741); a threshold of 1 is never reached. kAct: p before each repeat, of the state
// with its signal; the first after which p_0 + p_1 + ... exceeds the threshold is the last (Graves
// 2016, arXiv 1603.08983). kConvergence: after the first repeat that moved the state by less than
// the threshold, |s - before| / |s| (Huginn's latent-diff, of one token).
struct ExitSpec {
  std::string weight;  // [1, dim]; empty with kConvergence
  std::string bias;    // [1]; empty: none
  float threshold = 1.0f;
  ActOutput output = ActOutput::kAccumulated;  // of kAct
  bool operator==(const ExitSpec&) const = default;
};

// Added to the state before each repeat (Universal Transformer): sinusoids of the position, and
// sinusoids or learned vectors of the repeat's number; sines in the first half of the columns,
// cosines in the second, wave lengths 2 pi to 20000 pi.
struct StepSignalSpec {
  bool positions = true;
  bool steps = true;
  std::string step_weight;  // [times, dim] in place of the sinusoids of the number; empty: those
  bool operator==(const StepSignalSpec&) const = default;
};

// The gate of kStickBreaking: out(gelu(hidden(h))) are two logits, continue and halt.
struct HaltingGateSpec {
  ProjectionSpec hidden, out;
  float threshold = 0.999f;  // a row halts when its chance to go on is below 1 - threshold
  bool operator==(const HaltingGateSpec&) const = default;
};

// How often a group runs, and for which rows: models.md sections 4 and 7, recurrence.h.
struct RepeatSpec {
  int32_t times = 1;  // the most, where rows may stop earlier
  HaltingKind halting = HaltingKind::kNone;
  bool adjustable = false;  // a request may ask for fewer (routing.max_depth)
  // state = W concat(state, input of the group) before each repeat, from a zero state (Huginn).
  std::optional<ProjectionSpec> injection;
  std::optional<HaltingGateSpec> gate;
  // kChosenDepth: num_experts == times, top_k == 1; choice e runs e + 1 repeats and its weight w
  // merges them: x = input + w state.
  std::optional<RouterSpec> depth_router;
  std::optional<ExitSpec> exit;  // kAct, kConvergence, kExitGate
  RepeatKv kv = RepeatKv::kOwn;
  std::optional<StepSignalSpec> signal;
  std::optional<NormSpec> norm;  // of the state after every repeat (Ouro)
  bool operator==(const RepeatSpec&) const = default;

  bool exits() const { return exit.has_value(); }
  // Whether a row may be missing in a repeat, and then whether its keys and values are.
  bool rows_may_stop() const {
    return adjustable || (halting != HaltingKind::kNone && kv != RepeatKv::kComputeAll);
  }
  bool keys_may_miss() const {
    return kv != RepeatKv::kFirst && (adjustable || (rows_may_stop() && kv == RepeatKv::kOwn));
  }
};

struct LayerGroupSpec {
  std::string name;
  RepeatSpec repeat;
  std::vector<LayerSpec> layers;
  std::optional<NormSpec> output_norm;  // after the last repeat
  bool operator==(const LayerGroupSpec&) const = default;
};

struct EmbeddingSpec {
  int32_t vocab_size = 0;
  int64_t dim = 0;
  std::string weight;           // [vocab_size, dim]
  std::string position_weight;  // learned absolute positions [max_positions, dim]; empty: none
  // [num_token_types, dim]: every token is of the first type; empty: none. Neither is scaled.
  std::string token_type_weight;
  int32_t num_token_types = 0;
  float scale = 1.0f;
  std::optional<NormSpec> norm;  // of the sum
  bool operator==(const EmbeddingSpec&) const = default;
};

// What an encoder gives: the mean of its last hidden rows, or the first one ([CLS]). kNone: logits.
enum class Pooling : uint8_t { kNone, kMean, kFirst };

struct HeadSpec {
  Pooling pooling = Pooling::kNone;  // else the head has no weights
  std::string weight;                // empty: tied to the embedding
  std::string bias;
  float logit_scale = 1.0f;
  bool operator==(const HeadSpec&) const = default;
};

enum class StackRole : uint8_t { kDecoder, kEncoder };

struct StackSpec {
  StackRole role = StackRole::kDecoder;
  EmbeddingSpec embedding;
  std::vector<LayerGroupSpec> groups;
  std::optional<NormSpec> final_norm;
  bool operator==(const StackSpec&) const = default;
};

struct ModelSpec {
  std::string family;  // "llama", "mod", ...: for people and metrics, never for branches
  std::vector<StackSpec> stacks;
  HeadSpec head;
  int32_t max_positions = 0;
  std::vector<int32_t> eos_token_ids;
  // Of an encoder-decoder (two stacks): the prompt is the encoder's, the decoder begins with this.
  int32_t decoder_start_token_id = 0;
  bool operator==(const ModelSpec&) const = default;

  const StackSpec& decoder() const { return stacks.back(); }
  const StackSpec* encoder() const { return stacks.size() > 1 ? &stacks.front() : nullptr; }
  // Gives hidden rows of a whole sequence instead of logits.
  bool is_encoder() const { return head.pooling != Pooling::kNone; }
};

// Checks every dimensional and combinational rule. InvalidArgument for sizes that disagree,
// Unimplemented for a combination the forward loop does not run; both name the path
// ("stacks[0].groups[1].layers[0].depth").
absl::Status ValidateSpec(const ModelSpec& spec);

}  // namespace sluice
