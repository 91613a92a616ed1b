#include "engine/model/parameter_count.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <variant>

namespace sluice {
namespace {

class Counter {
 public:
  explicit Counter(const ModelSpec& spec) : spec_(spec), dim_(spec.decoder().embedding.dim) {}

  ParameterCount Run() {
    const EmbeddingSpec& embedding = spec_.decoder().embedding;
    AddTensor(embedding.weight, embedding.vocab_size * dim_);
    AddTensor(embedding.position_weight, spec_.max_positions * dim_);
    AddTensor(embedding.token_type_weight, dim_);  // every token is of the first type
    AddNorm(embedding.norm, dim_);
    AddTensor(spec_.head.weight, embedding.vocab_size * dim_);
    AddTensor(spec_.head.bias, embedding.vocab_size);
    for (const StackSpec& stack : spec_.stacks) {
      for (const LayerGroupSpec& group : stack.groups) AddGroup(group);
      AddNorm(stack.final_norm, dim_);
    }
    return count_;
  }

 private:
  // An empty name is a tensor the spec does without. `active` of its numbers are read by a row that
  // runs the sublayer. `first` tells the parts of a fused tensor.
  void AddTensor(const std::string& name, int64_t numbers, int64_t active, int64_t first = 0) {
    if (name.empty() || !counted_.insert({name, first}).second) return;
    count_.total += numbers;
    count_.active += shares_.rows * static_cast<double>(active);
  }
  void AddTensor(const std::string& name, int64_t numbers) { AddTensor(name, numbers, numbers); }

  void AddNorm(const std::optional<NormSpec>& norm, int64_t size) {
    if (!norm.has_value()) return;
    AddTensor(norm->weight, size);
    AddTensor(norm->bias, size);
  }

  void AddSoftRouter(const SoftRouterSpec& router, int64_t width) {
    AddTensor(router.weight, width * router.num_experts);
    AddTensor(router.bias, router.num_experts);
  }

  void AddScaling(const std::optional<SoftScalingSpec>& scaling, int64_t width) {
    if (!scaling.has_value()) return;
    AddSoftRouter(scaling->router, width / std::max(1, scaling->heads));
    AddTensor(scaling->weight, scaling->router.num_experts * width);
  }

  void AddProjection(const ProjectionSpec& projection) {
    const int64_t numbers = projection.in * projection.out;
    AddTensor(projection.weight, numbers, numbers, projection.row_begin);
    AddTensor(projection.bias, projection.out, projection.out, projection.row_begin);
    AddScaling(projection.scaling, projection.out);
    if (!projection.low_rank.has_value()) return;
    const SoftLowRankSpec& adapter = *projection.low_rank;
    AddSoftRouter(adapter.router, projection.in);
    AddTensor(adapter.down, adapter.router.num_experts * projection.in * adapter.rank);
    AddTensor(adapter.up, adapter.router.num_experts * projection.out * adapter.rank);
  }

  // Keys and values may be those of more rows than run the sublayer.
  void AddKeys(const AttentionSpec& attention) {
    const SublayerShares shares = shares_;
    shares_.rows = shares.keys;
    AddProjection(attention.k);
    if (!attention.v.experts.has_value()) AddProjection(attention.v);
    shares_ = shares;
  }

  void AddRouter(const RouterSpec& router, int64_t dim, int64_t copies) {
    const int64_t choices = copies * (router.num_experts + router.num_null_experts);
    AddTensor(router.hidden_weight, router.hidden * dim);
    AddTensor(router.hidden_bias, router.hidden);
    AddTensor(router.weight, choices * (router.hidden > 0 ? router.hidden : dim));
    AddTensor(router.bias, choices);
    AddTensor(router.selection_bias, choices);
  }

  // Value and output projections: plain, or one expert per head and choice; of a Mixture of
  // Attention one expert per choice.
  void AddExperts(const ProjectionSpec& projection, const RouterSpec& router) {
    const int64_t one = projection.in * projection.out;
    const int64_t experts = projection.split_by_head ? 1 : router.num_experts;
    AddTensor(projection.weight, experts * one, std::min<int64_t>(router.top_k, experts) * one);
    AddTensor(projection.bias, projection.out);
  }

  void Add(const AttentionSpec& attention) {
    if (attention.position_bias.has_value()) AddPositionBias(attention);
    AddKeys(attention);
    if (attention.q.experts.has_value()) {  // one router chooses pairs of q and o
      AddRouter(*attention.q.experts, attention.q.in, 1);
      for (const ProjectionSpec* part : {&attention.q, &attention.o})
        AddExperts(*part, *attention.q.experts);
    } else {
      AddProjection(attention.q);
      for (const ProjectionSpec* part : {&attention.v, &attention.o}) {
        if (!part->experts.has_value()) {
          AddProjection(*part);  // a value that was counted with its key is not counted again
          continue;
        }
        AddRouter(*part->experts, attention.q.in, attention.num_heads);
        AddExperts(*part, *part->experts);
      }
    }
    if (attention.relative.has_value()) {
      AddTensor(attention.relative->weight, int64_t{attention.num_heads} * attention.head_dim *
                                                (2 * attention.relative->max_distance + 1));
    }
    AddNorm(attention.q_norm, attention.norm_per_head ? attention.head_dim : attention.q.out);
    AddNorm(attention.k_norm, attention.norm_per_head ? attention.head_dim : attention.k.out);
    AddTensor(attention.sinks, attention.num_heads);
  }

  // One table for all layers of a stack: read by rows that skip this one too.
  void AddPositionBias(const AttentionSpec& attention) {
    const SublayerShares shares = std::exchange(shares_, SublayerShares());
    AddTensor(attention.position_bias->weight,
              int64_t{attention.position_bias->num_buckets} * attention.num_heads);
    shares_ = shares;
  }

  void Add(const LatentAttentionSpec& attention) {
    if (attention.q_down.has_value()) AddProjection(*attention.q_down);
    AddNorm(attention.q_norm, attention.q_down.has_value() ? attention.q_down->out : 0);
    AddProjection(attention.q);
    AddProjection(attention.kv_down);
    AddNorm(attention.kv_norm, attention.latent_dim);
    AddProjection(attention.kv_up);
    AddProjection(attention.o);
  }

  void Add(const DenseFfnSpec& ffn) {
    if (ffn.gated) AddProjection(ffn.gate);
    AddProjection(ffn.up);
    AddProjection(ffn.down);
    AddScaling(ffn.hidden_scaling, ffn.hidden);
  }

  void Add(const MoeFfnSpec& ffn) {
    AddRouter(ffn.router, dim_, 1);
    const int64_t experts = ffn.router.num_experts;
    const int64_t chosen = std::min<int64_t>(experts, ffn.router.mean_experts());
    const int64_t up = ffn.experts.fused_gate_up ? 2 * ffn.hidden : ffn.hidden;
    const auto add_matrix = [&](const std::string& name, int64_t rows) {
      AddTensor(name, experts * rows * dim_, chosen * rows * dim_);
    };
    add_matrix(ffn.experts.gate, ffn.hidden);
    add_matrix(ffn.experts.up, up);
    add_matrix(ffn.experts.down, ffn.hidden);
    AddTensor(ffn.experts.gate_bias, experts * ffn.hidden);
    AddTensor(ffn.experts.up_bias, experts * up);
    AddTensor(ffn.experts.down_bias, experts * dim_);
    if (ffn.shared.has_value()) Add(*ffn.shared);
    AddTensor(ffn.shared_gate, dim_);
    AddTensor(ffn.output_bias, dim_);
  }

  void Add(const MixtureFfnSpec& ffn) {  // every row runs all experts
    AddTensor(ffn.controller, dim_ * ffn.num_experts);
    AddTensor(ffn.up, ffn.num_experts * dim_ * ffn.hidden);
    AddTensor(ffn.down, ffn.num_experts * dim_ * ffn.hidden);
  }

  void AddLayer(const LayerSpec& layer) {
    if (layer.depth.has_value()) {
      const DepthRouterSpec& depth = *layer.depth;
      if (depth.hidden.has_value()) AddProjection(*depth.hidden);
      AddTensor(depth.weight, depth.hidden.has_value() ? depth.hidden->out : dim_);
      AddTensor(depth.bias, 1);
      for (const ProjectionSpec& part : depth.predictor) AddProjection(part);
    }
    for (size_t i = 0; i < layer.sublayers.size(); ++i) {
      const SublayerSpec& sublayer = layer.sublayers[i];
      shares_ = SharesOf(layer.depth, i);
      AddNorm(sublayer.input_norm, dim_);
      AddNorm(sublayer.output_norm, dim_);
      AddNorm(sublayer.residual_norm, dim_);
      std::visit([this](const auto& block) { Add(block); }, sublayer.block);
      shares_ = SublayerShares();
    }
  }

  void AddGroup(const LayerGroupSpec& group) {
    const RepeatSpec& repeat = group.repeat;
    if (repeat.injection.has_value()) AddProjection(*repeat.injection);
    if (repeat.depth_router.has_value()) AddRouter(*repeat.depth_router, dim_, 1);
    if (repeat.gate.has_value()) {
      AddProjection(repeat.gate->hidden);
      AddProjection(repeat.gate->out);
    }
    if (repeat.exit.has_value()) {
      AddTensor(repeat.exit->weight, dim_);
      AddTensor(repeat.exit->bias, 1);
    }
    if (repeat.signal.has_value()) AddTensor(repeat.signal->step_weight, repeat.times * dim_);
    for (const LayerSpec& layer : group.layers) AddLayer(layer);
    AddNorm(repeat.norm, dim_);
    AddNorm(group.output_norm, dim_);
  }

  const ModelSpec& spec_;
  const int64_t dim_;
  SublayerShares shares_;
  std::set<std::pair<std::string, int64_t>> counted_;
  ParameterCount count_;
};

}  // namespace

ParameterCount CountParameters(const ModelSpec& spec) { return Counter(spec).Run(); }

std::optional<double> TrainedShare(const DepthRouterSpec& depth) {
  if (depth.capacity <= 0.0 || depth.capacity_rows > 0) return std::nullopt;
  return depth.capacity;
}

SublayerShares SharesOf(const std::optional<DepthRouterSpec>& depth, size_t index) {
  if (!depth.has_value() || index < static_cast<size_t>(depth->first_sublayer)) return {};
  const double share = TrainedShare(*depth).value_or(1.0);
  return {.rows = share, .keys = depth->kv == DepthKv::kAllTokens ? 1.0 : share};
}

}  // namespace sluice
