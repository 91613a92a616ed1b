#include "server/commands/spec_summary.h"

#include <algorithm>
#include <variant>

namespace sluice::server {
namespace {

constexpr int64_t kKvBytesPerNumber = 2;  // bf16

// Parameters of one block, and how many of them an executing token uses.
struct BlockSize {
  int64_t total = 0;
  double active = 0.0;
  void Add(int64_t count, double share = 1.0) {
    total += count;
    active += share * static_cast<double>(count);
  }
};

void AddScaling(const std::optional<SoftScalingSpec>& scaling, int64_t width, BlockSize& size) {
  if (!scaling.has_value()) return;
  const int64_t experts = scaling->router.num_experts;
  size.Add(experts * (width + width / std::max(1, scaling->heads)));
}

void AddAdapters(const ProjectionSpec& projection, BlockSize& size) {
  AddScaling(projection.scaling, projection.out, size);
  if (!projection.low_rank.has_value()) return;
  const SoftLowRankSpec& spec = *projection.low_rank;
  const int64_t experts = spec.router.num_experts;
  size.Add(experts * (projection.in + spec.rank * (projection.in + projection.out)));
}

void AddProjection(const ProjectionSpec& projection, int64_t heads, BlockSize& size) {
  AddAdapters(projection, size);
  int64_t weights = projection.in * projection.out;
  double share = 1.0;
  if (projection.experts.has_value()) {
    const RouterSpec& router = *projection.experts;
    weights *= router.num_experts;
    share = static_cast<double>(router.top_k) / static_cast<double>(router.num_experts);
    size.Add(heads * router.num_experts * projection.in);
  }
  size.Add(weights, share);
  if (!projection.bias.empty()) size.Add(projection.out);
}

void AddFfn(const DenseFfnSpec& ffn, BlockSize& size) {
  if (ffn.gated) AddProjection(ffn.gate, 1, size);
  AddProjection(ffn.up, 1, size);
  AddProjection(ffn.down, 1, size);
  AddScaling(ffn.hidden_scaling, ffn.hidden, size);
}

// One router chooses pairs of query and output projections.
void AddMixture(const AttentionSpec& attention, BlockSize& size) {
  const RouterSpec& router = *attention.q.experts;
  const double share = static_cast<double>(router.top_k) / static_cast<double>(router.num_experts);
  for (const ProjectionSpec* expert : {&attention.q, &attention.o})
    size.Add(expert->in * expert->out * router.num_experts, share);
  size.Add(router.num_experts * (router.hidden > 0 ? router.hidden : attention.q.in) +
           router.hidden * (attention.q.in + 1));
  AddProjection(attention.k, 1, size);
  AddProjection(attention.v, 1, size);
  if (!attention.o.bias.empty()) size.Add(attention.o.out);
  if (attention.relative.has_value())
    size.Add(attention.q.out * (2 * int64_t{attention.relative->max_distance} + 1));
}

BlockSize SizeOf(const BlockSpec& block, int64_t dim) {
  BlockSize size;
  if (const auto* attention = std::get_if<AttentionSpec>(&block)) {
    if (attention->q.experts.has_value()) {
      AddMixture(*attention, size);
      return size;
    }
    for (const ProjectionSpec* projection :
         {&attention->q, &attention->k, &attention->v, &attention->o}) {
      AddProjection(*projection, attention->num_heads, size);
    }
    return size;
  }
  if (const auto* ffn = std::get_if<DenseFfnSpec>(&block)) {
    AddFfn(*ffn, size);
    return size;
  }
  if (const auto* latent = std::get_if<LatentAttentionSpec>(&block)) {
    if (latent->q_down.has_value()) AddProjection(*latent->q_down, 1, size);
    for (const ProjectionSpec* projection :
         {&latent->q, &latent->kv_down, &latent->kv_up, &latent->o}) {
      AddProjection(*projection, latent->num_heads, size);
    }
    return size;
  }
  if (const auto* mixture = std::get_if<MixtureFfnSpec>(&block)) {  // every row runs all experts
    size.Add(mixture->num_experts * dim * (2 * mixture->hidden + 1));
    return size;
  }
  const auto& moe = std::get<MoeFfnSpec>(block);
  const int64_t choices = moe.router.num_experts + moe.router.num_null_experts;
  size.Add(choices * dim);
  const int64_t expert = dim * moe.hidden * (moe.gated ? 3 : 2);
  size.Add(expert * moe.router.num_experts,
           choices > 0
               ? static_cast<double>(moe.router.mean_experts()) / static_cast<double>(choices)
               : 0.0);
  if (moe.shared.has_value()) AddFfn(*moe.shared, size);
  if (!moe.output_bias.empty()) size.Add(dim);
  return size;
}

class Summarizer {
 public:
  explicit Summarizer(const ModelSpec& spec) : spec_(spec) {}

  SpecSummary Run() {
    const EmbeddingSpec& embedding = spec_.decoder().embedding;
    summary_.family = spec_.family;
    summary_.vocab_size = embedding.vocab_size;
    summary_.dim = embedding.dim;
    summary_.max_positions = spec_.max_positions;
    AddParameters(embedding.vocab_size * embedding.dim, 0.0);
    // A tied head reads the embedding's matrix for every token.
    const int64_t head = embedding.vocab_size * embedding.dim;
    AddParameters(spec_.head.weight.empty() ? 0 : head, 0.0);
    summary_.parameters_active += static_cast<double>(head);
    if (!embedding.position_weight.empty()) {
      AddParameters(spec_.max_positions * embedding.dim, 0.0);
    }
    for (const StackSpec& stack : spec_.stacks) {
      for (const LayerGroupSpec& group : stack.groups) AddGroup(group);
      AddNorm(stack.final_norm, 1.0);
    }
    if (!summary_.capacities.empty()) {
      double sum = 0.0;
      for (const double capacity : summary_.capacities) sum += capacity;
      summary_.expected_skip_ratio = 1.0 - sum / static_cast<double>(summary_.capacities.size());
    }
    return summary_;
  }

 private:
  void AddParameters(int64_t count, double share) {
    summary_.parameters_total += count;
    summary_.parameters_active += share * static_cast<double>(count);
  }

  void AddNorm(const std::optional<NormSpec>& norm, double share) {
    if (!norm.has_value()) return;
    if (!norm->weight.empty()) AddParameters(summary_.dim, share);
    if (!norm->bias.empty()) AddParameters(summary_.dim, share);
  }

  void AddGroup(const LayerGroupSpec& group) {
    const int64_t times = group.repeat.times;
    if (times > 1) ++summary_.loops;
    for (const LayerSpec& layer : group.layers) {
      ++summary_.layers;
      summary_.layer_instances += times;
      double share = 1.0;
      if (layer.depth.has_value()) {
        const DepthRouterSpec& depth = *layer.depth;
        share = depth.capacity > 0.0 ? depth.capacity : 1.0;
        summary_.routed_instances += times;
        summary_.capacities.insert(summary_.capacities.end(), static_cast<size_t>(times), share);
        AddParameters(summary_.dim, 1.0);
        for (const ProjectionSpec& projection : depth.predictor) {
          AddParameters(projection.in * projection.out, 1.0);
        }
      }
      for (const SublayerSpec& sublayer : layer.sublayers) AddSublayer(sublayer, share, times);
    }
  }

  void AddSublayer(const SublayerSpec& sublayer, double share, int64_t times) {
    for (const auto* norm :
         {&sublayer.input_norm, &sublayer.output_norm, &sublayer.residual_norm}) {
      AddNorm(*norm, share);
    }
    const BlockSize size = SizeOf(sublayer.block, summary_.dim);
    summary_.parameters_total += size.total;
    summary_.parameters_active += share * size.active;
    int64_t stored = 0;
    if (const auto* attention = std::get_if<AttentionSpec>(&sublayer.block))
      stored = 2 * int64_t{attention->num_kv_heads} * attention->head_dim;
    if (const auto* latent = std::get_if<LatentAttentionSpec>(&sublayer.block))
      stored = int64_t{latent->latent_dim} + latent->rope_dim;
    const int64_t bytes = stored * kKvBytesPerNumber;
    summary_.kv_bytes_per_token_bf16 += bytes * times;
    summary_.expected_kv_bytes_per_token += share * static_cast<double>(bytes * times);
    if (const auto* moe = std::get_if<MoeFfnSpec>(&sublayer.block)) {
      summary_.moe_instances += times;
      summary_.experts_per_layer =
          std::max<int64_t>(summary_.experts_per_layer, moe->router.num_experts);
      summary_.experts_per_token =
          std::max<int64_t>(summary_.experts_per_token, moe->router.mean_experts());
    }
  }

  const ModelSpec& spec_;
  SpecSummary summary_;
};

}  // namespace

SpecSummary SummarizeSpec(const ModelSpec& spec) { return Summarizer(spec).Run(); }

nlohmann::json ToJson(const SpecSummary& summary) {
  return {{"family", summary.family},
          {"layers", summary.layers},
          {"layer_instances", summary.layer_instances},
          {"routed_instances", summary.routed_instances},
          {"loops", summary.loops},
          {"capacities", summary.capacities},
          {"moe_instances", summary.moe_instances},
          {"experts_per_layer", summary.experts_per_layer},
          {"experts_per_token", summary.experts_per_token},
          {"vocab_size", summary.vocab_size},
          {"dim", summary.dim},
          {"max_positions", summary.max_positions},
          {"parameters_total", summary.parameters_total},
          {"parameters_active", static_cast<int64_t>(summary.parameters_active)},
          {"expected_skip_ratio", summary.expected_skip_ratio},
          {"kv_bytes_per_token_bf16", summary.kv_bytes_per_token_bf16},
          {"expected_kv_bytes_per_token", summary.expected_kv_bytes_per_token}};
}

}  // namespace sluice::server
