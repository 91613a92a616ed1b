// What stands inside a sublayer, as data: norms, rotary positions, routers, projections, attentions
// and feed-forwards (model_spec.h puts them into layers). Tensor names are those of the checkpoint.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "kernels/backend.h"

namespace sluice {

using kernels::Activation;
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

// Who chooses. kRowTopK: each row its top_k experts. kExpertTopK: each expert its best rows of one
// prompt (Expert Choice, Zhou et al. 2022, arXiv 2202.09368); generated rows follow kThreshold.
// kThreshold: each row every expert whose score is above the expert's own threshold.
enum class ExpertPick : uint8_t { kRowTopK, kExpertTopK, kThreshold };

// How many of the n rows of a prompt an expert may have: `rows`, or ceil(share * n), or
// factor * n / num_experts rounded half to even; exactly one of the three is set.
struct ExpertCapacitySpec {
  int32_t rows = 0;
  double share = 0.0;
  double factor = 0.0;
  int32_t min_rows = 0;
  bool renormalize_kept = false;  // the weights of a row are divided by the sum of what was kept
  bool operator==(const ExpertCapacitySpec&) const = default;
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
  // An MLP router (SUT): logits = W act(W1 x + b1), W1 [hidden, dim]. 0: linear.
  int64_t hidden = 0;
  std::string hidden_weight, hidden_bias;
  Activation hidden_activation = Activation::kTanh;
  float input_scale = 1.0f;  // of the rows that the router reads (Mixture-of-Recursions: 1 / temp)
  // Only experts of the best `top_groups` of `num_groups` equal groups can be chosen.
  int32_t num_groups = 1;
  int32_t top_groups = 1;
  GroupScore group_score = GroupScore::kMax;
  ExpertPick pick = ExpertPick::kRowTopK;  // another one has top_k == num_experts
  std::vector<float> thresholds;           // [num_experts] of kThreshold; empty: none
  // With kRowTopK what a request may switch on: choices beyond it are dropped.
  std::optional<ExpertCapacitySpec> capacity;
  bool operator==(const RouterSpec&) const = default;

  // Experts that run for an average row, as far as the spec tells.
  int32_t mean_experts() const {
    if (pick == ExpertPick::kRowTopK || !capacity.has_value()) return top_k;
    const double mean = std::max(capacity->factor, capacity->share * num_experts);
    return std::clamp(static_cast<int32_t>(std::lround(mean)), 1, num_experts);
  }
};

// Soft-merged experts of an adapter (Zadouri et al. 2023, arXiv 2309.05444): p = softmax(x W + b)
// over all experts; with top_k the p of the others become 0 and nothing is renormalised
// (for-ai/parameter-efficient-moe src/routing.py). p belongs to the row: nothing can be folded.
struct SoftRouterSpec {
  int32_t num_experts = 0;
  int32_t top_k = 0;   // 0: all
  std::string weight;  // [inputs, num_experts]
  std::string bias;    // [num_experts]; empty: none
  bool operator==(const SoftRouterSpec&) const = default;
};

// MoV: y becomes y * sum_e p_e l_e, p from y itself. With heads each run of columns by itself: its
// own p from the shared router, its own l.
struct SoftScalingSpec {
  SoftRouterSpec router;
  int32_t heads = 0;   // 0: one run, the whole row
  std::string weight;  // [num_experts, width]; with heads [heads, num_experts, width / heads]
  bool operator==(const SoftScalingSpec&) const = default;
};

// MoLORA: y gains scale * sum_e p_e B_e A_e x, p from x.
struct SoftLowRankSpec {
  SoftRouterSpec router;
  int64_t rank = 0;
  float scale = 1.0f;  // alpha / rank
  std::string down;    // A: [num_experts, in, rank]
  std::string up;      // B: [num_experts, rank, out]
  bool operator==(const SoftLowRankSpec&) const = default;
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
  // Adapters of the projections of attention and of the dense FFN, the second one of k and v only.
  std::optional<SoftLowRankSpec> low_rank;
  std::optional<SoftScalingSpec> scaling;
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

// T5's relative positions: a bias per head and bucket of the distance is added to the logit
// (position_bias.h).
struct PositionBiasSpec {
  std::string weight;        // [num_buckets, num_heads]
  int32_t num_buckets = 0;   // half of them for later keys, where the mask is kFull
  int32_t max_distance = 0;  // from here on there is one bucket
  bool operator==(const PositionBiasSpec&) const = default;
};

// kFull: the whole sequence, later rows too; only in an encoder.
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
  // every choice attends with all heads to the same keys and values. The bias of o is added once.
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
  std::optional<SoftScalingSpec> hidden_scaling;  // of the activated hidden row
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
  std::string output_bias;             // [dim], added once to every row; empty: none
  bool operator==(const MoeFfnSpec&) const = default;
};

// Mixture of Tokens (Antoniak et al. 2023, arXiv 2310.15961; models.md 5.1). A group of group_size
// rows at one position feeds every expert one mixture of its rows: with l = x C / temperature, m_ce
// = softmax over the rows c of l_ce, z_e = sum_c m_ce x_c, o_e = act(z_e up_e) down_e, y_c = sum_e
// w_ce o_e. Rows that a group lacks are zero rows, with l = 0: they take weight. A row that no
// request has grouped is alone with group_size - 1 zero rows.
struct MixtureFfnSpec {
  int32_t group_size = 1;
  int32_t num_experts = 0;
  int64_t hidden = 0;  // of one expert
  Activation activation = Activation::kRelu;
  float temperature = 1.0f;
  bool emit_over_experts = false;  // w = softmax over e of l; otherwise w = m
  bool discrete = false;           // every weight that is the largest becomes 1, the others 0
  std::string controller;          // C: [dim, num_experts]
  std::string up;                  // [num_experts, dim, hidden]
  std::string down;                // [num_experts, hidden, dim]
  bool operator==(const MixtureFfnSpec&) const = default;
};

using BlockSpec =
    std::variant<AttentionSpec, DenseFfnSpec, MoeFfnSpec, LatentAttentionSpec, MixtureFfnSpec>;

}  // namespace sluice
