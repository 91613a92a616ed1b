// The weights of a random spec: every tensor it names, in the shape of the spec.
#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/support/random_halting.h"
#include "tests/support/random_mixture.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {
namespace {

// Walks a spec and adds the tensors it names.
class Filler {
 public:
  Filler(uint32_t seed, MemoryWeightStore& store) : engine_(seed), store_(store) {}

  void Fill(const ModelSpec& spec) {
    const StackSpec& stack = spec.decoder();
    dim_ = stack.embedding.dim;
    Matrix(stack.embedding.weight, stack.embedding.vocab_size, dim_, 1.0f);
    Matrix(stack.embedding.position_weight, spec.max_positions, dim_, 0.3f);
    Matrix(stack.embedding.token_type_weight, stack.embedding.num_token_types, dim_, 0.3f);
    if (!spec.head.weight.empty()) {
      Matrix(spec.head.weight, stack.embedding.vocab_size, dim_, 1.0f / std::sqrt(Float(dim_)));
    }
    Vector(spec.head.bias, stack.embedding.vocab_size, 0.1f, 0.0f);
    if (stack.final_norm.has_value()) FillNorm(*stack.final_norm, dim_);
    if (stack.embedding.norm.has_value()) FillNorm(*stack.embedding.norm, dim_);
    for (const StackSpec& part : spec.stacks) {
      if (part.final_norm.has_value()) FillNorm(*part.final_norm, dim_);
      FillGroups(part);
    }
  }

 private:
  void FillGroups(const StackSpec& stack) {
    for (const LayerGroupSpec& group : stack.groups) {
      FillRepeat(group, dim_, [this](const auto&... tensor) { Add(tensor...); });
      if (group.repeat.halting == HaltingKind::kStickBreaking) continue;  // all of it
      for (const LayerSpec& layer : group.layers) FillLayer(layer);
    }
  }

  static float Float(int64_t value) { return static_cast<float>(value); }

  void Add(const std::string& name, std::vector<int64_t> shape, float scale, float mean) {
    if (name.empty() || store_.Contains(name)) return;
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    std::vector<float> values(static_cast<size_t>(count));
    std::normal_distribution<float> normal(mean, scale);
    for (float& value : values) value = normal(engine_);
    store_.Add(name, std::move(shape), std::move(values));
  }
  void Matrix(const std::string& name, int64_t rows, int64_t cols, float scale) {
    Add(name, {rows, cols}, scale, 0.0f);
  }
  void Vector(const std::string& name, int64_t size, float scale, float mean) {
    Add(name, {size}, scale, mean);
  }
  void FillNorm(const NormSpec& norm, int64_t size) {
    Vector(norm.weight, size, 0.1f, 1.0f);
    Vector(norm.bias, size, 0.1f, 0.0f);
  }
  void FillProjection(const ProjectionSpec& projection) {
    const float scale = 1.0f / std::sqrt(Float(projection.in));
    const bool turned = projection.transposed;
    const int64_t rows = projection.row_run > 0
                             ? projection.out / projection.row_run * projection.row_stride
                             : projection.out;
    Matrix(projection.weight, turned ? projection.in : rows, turned ? rows : projection.in, scale);
    Vector(projection.bias, projection.out, 0.1f, 0.0f);
    FillScaling(projection.scaling, projection.out);
    if (!projection.low_rank.has_value()) return;
    const SoftLowRankSpec& low_rank = *projection.low_rank;
    const int64_t experts = low_rank.router.num_experts;
    FillSoftRouter(low_rank.router, projection.in);
    Add(low_rank.down, {experts, projection.in, low_rank.rank}, scale, 0.0f);
    Add(low_rank.up, {experts, low_rank.rank, projection.out}, 0.5f, 0.0f);
  }
  void FillSoftRouter(const SoftRouterSpec& router, int64_t width) {
    Matrix(router.weight, width, router.num_experts, 1.0f / std::sqrt(Float(width)));
    Vector(router.bias, router.num_experts, 0.1f, 0.0f);
  }
  void FillScaling(const std::optional<SoftScalingSpec>& scaling, int64_t width) {
    if (!scaling.has_value()) return;
    const int64_t run = width / std::max(1, scaling->heads);
    FillSoftRouter(scaling->router, run);
    std::vector<int64_t> shape = {scaling->router.num_experts, run};
    if (scaling->heads > 0) shape.insert(shape.begin(), scaling->heads);
    Add(scaling->weight, std::move(shape), 0.3f, 1.0f);
  }
  void FillRouter(const RouterSpec& router, int32_t groups) {
    const int64_t outputs = int64_t{groups} * (router.num_experts + router.num_null_experts);
    Matrix(router.weight, outputs, dim_, 1.0f / std::sqrt(Float(dim_)));
    Vector(router.bias, outputs, 0.1f, 0.0f);
    Vector(router.selection_bias, outputs, 0.3f, 0.0f);
  }
  void FillAttention(const AttentionSpec& attention) {
    if (attention.q.experts.has_value())
      return testing::FillMixture(attention, dim_,
                                  [this](const auto&... tensor) { Add(tensor...); });
    for (const auto* projection : {&attention.q, &attention.k}) FillProjection(*projection);
    for (const auto* projection : {&attention.v, &attention.o}) {
      if (!projection->experts.has_value()) {
        FillProjection(*projection);
        continue;
      }
      FillRouter(*projection->experts, attention.num_heads);
      const int64_t in = projection == &attention.v ? dim_ : attention.head_dim;
      const int64_t out = projection == &attention.v ? attention.head_dim : dim_;
      Add(projection->weight, {attention.num_heads * projection->experts->num_experts, in, out},
          1.0f / std::sqrt(Float(in)), 0.0f);
    }
    const auto width = [&](int32_t heads) {
      return attention.norm_per_head ? attention.head_dim : heads * attention.head_dim;
    };
    if (attention.q_norm.has_value()) FillNorm(*attention.q_norm, width(attention.num_heads));
    if (attention.k_norm.has_value()) FillNorm(*attention.k_norm, width(attention.num_kv_heads));
    Vector(attention.sinks, attention.num_heads, 0.5f, 0.0f);
    if (attention.position_bias.has_value()) {
      Matrix(attention.position_bias->weight, attention.position_bias->num_buckets,
             attention.num_heads, 0.7f);
    }
  }
  void FillLatentAttention(const LatentAttentionSpec& attention) {
    if (attention.q_down.has_value()) FillProjection(*attention.q_down);
    if (attention.q_norm.has_value()) FillNorm(*attention.q_norm, attention.q.in);
    FillNorm(attention.kv_norm, attention.latent_dim);
    for (const auto* projection :
         {&attention.q, &attention.kv_down, &attention.kv_up, &attention.o}) {
      FillProjection(*projection);
    }
  }
  void FillDense(const DenseFfnSpec& ffn) {
    if (ffn.gated) FillProjection(ffn.gate);
    FillProjection(ffn.up);
    FillProjection(ffn.down);
    FillScaling(ffn.hidden_scaling, ffn.hidden);
  }
  void FillMixture(const MixtureFfnSpec& ffn) {
    const int64_t experts = ffn.num_experts;
    Matrix(ffn.controller, dim_, experts, 1.0f / std::sqrt(Float(dim_)));
    Add(ffn.up, {experts, dim_, ffn.hidden}, 1.0f / std::sqrt(Float(dim_)), 0.0f);
    Add(ffn.down, {experts, ffn.hidden, dim_}, 1.0f / std::sqrt(Float(ffn.hidden)), 0.0f);
  }
  void FillMoe(const MoeFfnSpec& moe) {
    FillRouter(moe.router, 1);
    const int32_t experts = moe.router.num_experts;
    const int64_t up_rows = moe.hidden * (moe.experts.fused_gate_up ? 2 : 1);
    Matrix(moe.experts.gate_bias, experts, moe.hidden, 0.1f);
    Matrix(moe.experts.up_bias, experts, up_rows, 0.1f);
    Matrix(moe.experts.down_bias, experts, dim_, 0.1f);
    if (moe.experts.fused_gate_up) {
      const bool turned = moe.experts.transposed;
      Add(moe.experts.up, {experts, turned ? dim_ : up_rows, turned ? up_rows : dim_},
          1.0f / std::sqrt(Float(dim_)), 0.0f);
      Add(moe.experts.down, {experts, turned ? moe.hidden : dim_, turned ? dim_ : moe.hidden},
          1.0f / std::sqrt(Float(moe.hidden)), 0.0f);
    }
    for (int32_t e = 0; e < moe.router.num_experts && !moe.experts.fused_gate_up; ++e) {
      const auto named = [e](const std::string& pattern) {
        return absl::StrReplaceAll(pattern, {{"{e}", absl::StrCat(e)}});
      };
      const bool turned = moe.experts.transposed;
      for (const std::string& up : {moe.experts.gate, moe.experts.up}) {
        Matrix(named(up), turned ? dim_ : moe.hidden, turned ? moe.hidden : dim_,
               1.0f / std::sqrt(Float(dim_)));
      }
      Matrix(named(moe.experts.down), turned ? moe.hidden : dim_, turned ? dim_ : moe.hidden,
             1.0f / std::sqrt(Float(moe.hidden)));
    }
    if (moe.shared.has_value()) FillDense(*moe.shared);
    Matrix(moe.shared_gate, 1, dim_, 0.2f);
    Vector(moe.output_bias, dim_, 0.2f, 0.0f);
  }
  void FillLayer(const LayerSpec& layer) {
    if (layer.depth.has_value()) {
      const auto& hidden = layer.depth->hidden;
      if (hidden.has_value()) FillProjection(*hidden);
      const int64_t width = hidden.has_value() ? hidden->out : dim_;
      Matrix(layer.depth->weight, 1, width, 1.0f / std::sqrt(Float(width)));
      Vector(layer.depth->bias, 1, 0.3f, 0.0f);
      for (const ProjectionSpec& projection : layer.depth->predictor) FillProjection(projection);
    }
    for (const SublayerSpec& sublayer : layer.sublayers) {
      for (const auto* norm :
           {&sublayer.input_norm, &sublayer.output_norm, &sublayer.residual_norm}) {
        if (norm->has_value()) FillNorm(**norm, dim_);
      }
      if (const auto* attention = std::get_if<AttentionSpec>(&sublayer.block))
        FillAttention(*attention);
      if (const auto* latent = std::get_if<LatentAttentionSpec>(&sublayer.block))
        FillLatentAttention(*latent);
      if (const auto* ffn = std::get_if<DenseFfnSpec>(&sublayer.block)) FillDense(*ffn);
      if (const auto* moe = std::get_if<MoeFfnSpec>(&sublayer.block)) FillMoe(*moe);
      if (const auto* mixture = std::get_if<MixtureFfnSpec>(&sublayer.block)) FillMixture(*mixture);
    }
  }

  std::mt19937 engine_;
  MemoryWeightStore& store_;
  int64_t dim_ = 0;
};

}  // namespace

void FillWeights(const ModelSpec& spec, uint32_t seed, MemoryWeightStore& store) {
  Filler(seed, store).Fill(spec);
}

}  // namespace sluice::testing
