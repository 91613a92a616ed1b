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
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace sluice {

using kernels::Activation;
using kernels::DepthCombine;
using kernels::GateFunction;
using kernels::GroupScore;
using kernels::NormKind;
using kernels::RopeStyle;
using kernels::ScoreFunction;
using kernels::SwigluClamp;

struct NormSpec {
  NormKind kind = NormKind::kRms;
  float epsilon = 1e-5f;
  std::string weight;          // tensor name; empty: no scale
  std::string bias;            // tensor name; empty: no bias
  float weight_offset = 0.0f;  // added to the weight at load (Gemma stores w - 1)
  bool operator==(const NormSpec&) const = default;
};

// Frequencies for contexts longer than the trained one. A frequency that turns fewer than
// `low_rotations` times in `original_positions` is divided by `factor`, one that turns more than
// `high_rotations` times stays, and those between are mixed: linearly in the number of rotations
// (Llama 3.1), or in the index of the frequency (YaRN, Peng et al. 2023, eq. 17 to 23).
enum class RopeMix : uint8_t { kByRotations, kByIndex };

struct RopeScalingSpec {
  RopeMix mix = RopeMix::kByIndex;
  double factor = 1.0;
  int32_t original_positions = 0;
  double low_rotations = 1.0;
  double high_rotations = 32.0;
  bool whole_indices = true;  // of kByIndex: the borders are rounded outwards to whole indices
  bool operator==(const RopeScalingSpec&) const = default;
};

struct RopeSpec {
  RopeStyle style = RopeStyle::kHalf;
  int32_t rotary_dim = 0;  // first dims of each head; even; the exponent uses rotary_dim
  double theta = 10000.0;
  double linear_factor = 1.0;  // positions are divided by it
  std::optional<RopeScalingSpec> scaling;
  double amplitude = 1.0;  // cosines and sines are multiplied by it (YaRN's attention factor)
  bool operator==(const RopeSpec&) const = default;
};

// Expert selection, models.md section 2: which experts a row takes and with which weights.
struct RouterSpec {
  ScoreFunction score = ScoreFunction::kSoftmax;
  int32_t num_experts = 0;
  int32_t num_null_experts = 0;  // no-op experts behind the real ones (integrated MoDE)
  int32_t top_k = 0;
  bool renormalize = false;
  float renormalize_epsilon = 0.0f;
  float scale = 1.0f;
  std::string weight;          // [num_experts + num_null_experts, dim]
  std::string bias;            // added to the logits; empty: none
  std::string selection_bias;  // added to the scores for the choice only; empty: none
  // An MLP router (SUT): logits = W tanh(W1 x + b1), W1 [hidden, dim]. 0: linear.
  int64_t hidden = 0;
  std::string hidden_weight, hidden_bias;
  // Only experts of the best `top_groups` of `num_groups` equal groups can be chosen.
  int32_t num_groups = 1;
  int32_t top_groups = 1;
  GroupScore group_score = GroupScore::kMax;
  bool operator==(const RouterSpec&) const = default;
};

// y = x W^T + b. `rows`: the part [row_begin, row_begin + out) of a fused tensor.
struct ProjectionSpec {
  int64_t in = 0;
  int64_t out = 0;
  std::string weight;
  std::string bias;         // empty: none
  bool transposed = false;  // stored [in, out] (GPT-2 Conv1D, sigma-MoE)
  int64_t row_begin = 0;    // first output of a fused tensor
  // Where a fused tensor has q, k and v head by head: output r is its row row_begin + r / row_run *
  // row_stride + r % row_run. 0: the outputs are consecutive rows.
  int64_t row_run = 0;
  int64_t row_stride = 0;
  // SwitchHead / MoA: top-k experts per head. in and out stay those of the whole projection; head
  // h's expert e is matrix h * num_experts + e of the stacked weight, [dim, head_dim] for v,
  // [head_dim, dim] for o
  // ([out, in] unless `transposed`); the router weight is [num_heads * num_experts, dim].
  std::optional<RouterSpec> experts;
  // Only of o, with one expert per head: `weight` is one matrix [out, in] and the expert of head h
  // is its input columns [h * head_dim, (h + 1) * head_dim).
  bool split_by_head = false;
  bool operator==(const ProjectionSpec&) const = default;
};

// Learned relative positions (Shaw et al. 2018): scale * q . R[h, :, M + clamp(j - i, 1 - M, M -
// 1)] is added to the logit of query i and key j.
struct RelativePositionSpec {
  std::string weight;        // [num_kv_heads, head_dim, 2 M + 1]
  int32_t max_distance = 0;  // M
  float scale = 1.0f;
  bool operator==(const RelativePositionSpec&) const = default;
};

// kFull: the whole sequence, later rows too; only in an encoder.
// T5's relative positions: a bias per head and bucket of the distance is added to the logit
// (position_bias.h).
struct PositionBiasSpec {
  std::string weight;        // [num_buckets, num_heads]
  int32_t num_buckets = 0;   // half of them for later keys, where the mask is kFull
  int32_t max_distance = 0;  // from here on there is one bucket
  bool operator==(const PositionBiasSpec&) const = default;
};

enum class MaskKind : uint8_t { kCausal, kFull };

// Sparse attention as data, models.md 6: which of the keys that the mask allows a query sees. The
// unit is a block of `block` positions, counted from position 0; b is the query's own. Seen are the
// first and the last blocks of the sequence, [b - behind, b + ahead], and random ones; a key counts
// once, but `first_repeats`. Positional sinks beside a window of W tokens (Xiao et al. 2023,
// without moving positions): block 1, behind W - 1. BigBird (Zaheer et al. 2020): one block first,
// last, behind and ahead. ETC (Ainslie et al. 2020) with its global tokens first: block 1,
// global_queries.
struct SparsePatternSpec {
  int32_t block = 1;
  int32_t first_blocks = 0;
  int32_t last_blocks = 0;  // kFull only, as everything below but the random blocks
  int32_t behind = 0;
  int32_t ahead = 0;
  bool global_queries = false;  // queries of the first and the last blocks see everything
  // Block 0 counts so many times more: what transformers' BigBird computes for random blocks.
  int32_t first_repeats = 0;
  int32_t full_up_to = 0;  // a sequence of at most so many positions is not sparse
  // Per head and query block so many other blocks, a pure function of (seed, head, b):
  // sparse_pattern.h.
  int32_t random_blocks = 0;
  int64_t seed = 0;
  bool operator==(const SparsePatternSpec&) const = default;
};
enum class KvSource : uint8_t { kSelf, kEncoder, kSecondStream };

struct AttentionSpec {
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  // With experts, q and o are Mixture-of-Attention (Zhang et al. 2022, arXiv 2210.05144): each row
  // takes top_k of num_experts stacked pairs (q [dim, width], o [width, dim]) by one router, and
  // every choice attends with all heads to the same keys and values.
  ProjectionSpec q, k, v, o;
  std::optional<NormSpec> q_norm, k_norm;
  bool norm_per_head = true;  // false: over the whole projected vector (OLMoE)
  float clip_qkv = 0.0f;      // 0: no clamp
  std::optional<RopeSpec> rope;
  std::optional<RelativePositionSpec> relative;
  std::optional<PositionBiasSpec> position_bias;
  float scale = 0.0f;  // of the logits; 0 means 1 / sqrt(head_dim)
  int32_t window = 0;  // 0: full; else position p sees (p - window, p]
  MaskKind mask = MaskKind::kCausal;
  std::optional<SparsePatternSpec> sparse;  // not beside a window
  KvSource kv_source = KvSource::kSelf;     // kEncoder: of the last rows of the first stack
  std::string sinks;                        // [num_heads]; empty: none
  bool value_from_residual = false;         // V reads the un-normed rows (MoEUT)
  bool operator==(const AttentionSpec&) const = default;
};

// Multi-head latent attention, models.md 2.11 (DeepSeek-AI 2024, sec. 2.1). Per token only the
// normed latent and one rotated key shared by all heads are cached; kv_up is absorbed into the
// query and the output: q_nope . (W_k c) = (W_k^T q_nope) . c.
struct LatentAttentionSpec {
  int32_t num_heads = 0;
  int32_t nope_dim = 0;                  // of each query and key head, not rotated, first
  int32_t rope_dim = 0;                  // rotated, behind it
  int32_t value_dim = 0;                 // of each head
  int32_t latent_dim = 0;                // kv_lora_rank
  std::optional<ProjectionSpec> q_down;  // with q_norm: dim -> its rank; none: q reads the rows
  std::optional<NormSpec> q_norm;
  ProjectionSpec q;        // -> num_heads * (nope_dim + rope_dim)
  ProjectionSpec kv_down;  // dim -> latent_dim + rope_dim
  NormSpec kv_norm;        // of the latent
  ProjectionSpec kv_up;    // latent_dim -> num_heads * (nope_dim + value_dim), keys first per head
  ProjectionSpec o;        // num_heads * value_dim -> dim
  RopeSpec rope;
  float scale = 0.0f;  // of the logits; 0 means 1 / sqrt(nope_dim + rope_dim)
  bool operator==(const LatentAttentionSpec&) const = default;
};

struct DenseFfnSpec {
  int64_t hidden = 0;
  bool gated = true;
  Activation activation = Activation::kSilu;
  ProjectionSpec gate;  // used when gated
  ProjectionSpec up;
  ProjectionSpec down;
  bool input_from_residual = false;
  bool operator==(const DenseFfnSpec&) const = default;
};

// kMxfp4: the name stands for two stacked tensors, name_blocks [num_experts, out, in / 32, 16] of
// 4-bit numbers, low half first, and name_scales [num_experts, out, in / 32], powers of two (OCP
// Microscaling Formats 1.0). Decoded at load.
enum class ExpertEncoding : uint8_t { kPlain, kMxfp4 };

// How one expert's matrices stand in the file. "{e}" in a name is replaced by the expert index;
// without it the tensor is stacked [num_experts, ...].
struct ExpertWeightsSpec {
  std::string gate, up, down;  // gate empty when not gated
  bool transposed = false;     // stored [in, out]
  bool fused_gate_up = false;  // `up` holds [2 * hidden, dim]: gate rows first
  bool interleaved = false;    // of fused_gate_up: even rows are the gate, odd rows the other
  // Stacked [num_experts, ...]; empty: none. `up_bias` is fused and interleaved as `up` is.
  std::string gate_bias, up_bias, down_bias;
  ExpertEncoding encoding = ExpertEncoding::kPlain;
  bool operator==(const ExpertWeightsSpec&) const = default;
};

struct MoeFfnSpec {
  RouterSpec router;
  int64_t hidden = 0;
  bool gated = true;
  Activation activation = Activation::kSilu;
  SwigluClamp clamp;  // of Activation::kClampedSwiglu
  ExpertWeightsSpec experts;
  bool input_from_residual = false;    // experts read the un-normed rows (MoEUT)
  std::optional<DenseFfnSpec> shared;  // shared experts, fused into one FFN
  std::string shared_gate;             // [1, dim]: sigmoid gate of the shared part; empty: none
  bool operator==(const MoeFfnSpec&) const = default;
};

using BlockSpec = std::variant<AttentionSpec, DenseFfnSpec, MoeFfnSpec, LatentAttentionSpec>;

// x += residual_scale * output_norm(block(input_norm(x))); then x = residual_norm(x).
struct SublayerSpec {
  std::optional<NormSpec> input_norm, output_norm, residual_norm;
  BlockSpec block;
  float residual_scale = 1.0f;
  bool operator==(const SublayerSpec&) const = default;
};

// Mixture-of-Depths, models.md section 1.2.
enum class DepthDecide : uint8_t { kRouterThreshold, kPredictorThreshold, kRouterTopK };
enum class DepthKv : uint8_t { kRoutedOnly, kAllTokens, kZeroRows };
enum class DepthPosition : uint8_t { kAbsolute, kCompact };
enum class DepthGatePlace : uint8_t { kMerge, kLastSublayer };

struct DepthRouterSpec {
  std::string weight;                     // [1, dim]
  std::string bias;                       // [1]; empty: none
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
  DepthKv kv = DepthKv::kRoutedOnly;
  float gate_scale = 1.0f;   // times the gate (Mixture-of-Recursions: alpha)
  bool nested = false;       // only rows that took the depth-routed layer before this one may
  bool force_first = false;  // the threshold rules take position 0 whatever its score
  float threshold = 0.5f;    // on sigmoid(logit): taken iff sigmoid(logit) > threshold
  double capacity = 0.0;     // trained share of rows
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
enum class HaltingKind : uint8_t { kNone, kAct, kStickBreaking, kConvergence, kChosenDepth };

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
  bool operator==(const RepeatSpec&) const = default;

  bool rows_may_stop() const { return adjustable || halting != HaltingKind::kNone; }
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
