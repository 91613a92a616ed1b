#include "engine/architectures/mod_names.h"

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace sluice {
namespace {

// Hugging Face's names and Meta's (meta-llama/llama, llama/model.py).
constexpr auto kMetaNames = std::to_array<std::pair<const char*, const char*>>({
    {"model.layers.", "layers."},
    {"self_attn.q_proj", "attention.wq"},
    {"self_attn.k_proj", "attention.wk"},
    {"self_attn.v_proj", "attention.wv"},
    {"self_attn.o_proj", "attention.wo"},
    {"mlp.gate_proj", "feed_forward.w1"},
    {"mlp.up_proj", "feed_forward.w3"},
    {"mlp.down_proj", "feed_forward.w2"},
    {"input_layernorm", "attention_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"model.embed_tokens", "tok_embeddings"},
    {"model.norm", "norm"},
    {"lm_head", "output"},
});

std::string MetaName(const std::string& name) { return absl::StrReplaceAll(name, kMetaNames); }

std::string LayerNameOf(const WeightStore& weights, int32_t layer) {
  if (HasTowerNames(weights)) return absl::StrCat("encoder.blocks.block_", layer);
  return HasMetaNames(weights) ? absl::StrCat("layers.", layer) : LayerName(layer);
}

// Calls `rename` for every tensor name of the sublayers that a Llama block has.
template <typename Rename>
void ForEachName(LayerSpec& layer, Rename rename) {
  for (SublayerSpec& sublayer : layer.sublayers) {
    if (sublayer.input_norm.has_value()) rename(sublayer.input_norm->weight);
    std::vector<ProjectionSpec*> projections;
    if (auto* attention = std::get_if<AttentionSpec>(&sublayer.block))
      projections = {&attention->q, &attention->k, &attention->v, &attention->o};
    if (auto* ffn = std::get_if<DenseFfnSpec>(&sublayer.block))
      projections = {&ffn->gate, &ffn->up, &ffn->down};
    for (ProjectionSpec* projection : projections) {
      rename(projection->weight);
      rename(projection->bias);
    }
    if (auto* moe = std::get_if<MoeFfnSpec>(&sublayer.block)) {
      for (std::string* name : {&moe->router.weight, &moe->router.bias, &moe->experts.gate,
                                &moe->experts.up, &moe->experts.down}) {
        rename(*name);
      }
    }
  }
}

NormSpec TowerNorm(const DecoderShape& shape, const std::string& module) {
  return {.kind = NormKind::kLayer,
          .epsilon = shape.norm_epsilon,
          .weight = module + ".weight",
          .bias = module + ".bias"};
}

AttentionSpec TowerAttention(const DecoderShape& shape, const std::string& module) {
  AttentionSpec attention;
  attention.num_heads = attention.num_kv_heads = shape.num_heads;
  attention.head_dim = shape.head_dim;
  const int64_t width = int64_t{shape.num_heads} * shape.head_dim;
  int64_t begin = 0;
  for (ProjectionSpec* part : {&attention.q, &attention.k, &attention.v}) {
    *part = Linear(shape.dim, width, module + ".input_projection", false);
    part->row_begin = begin;
    part->row_run = shape.head_dim;
    part->row_stride = 3 * int64_t{shape.head_dim};
    begin += shape.head_dim;
  }
  attention.o = Linear(width, shape.dim, module + ".output_projection", false);
  return attention;
}

// Linear, or Linear - SiLU - Linear; biases where the file has them.
std::vector<ProjectionSpec> Predictor(const std::string& module,
                                      int64_t dim,
                                      const WeightStore& weights) {
  const std::string first = module + ".0";
  const std::string second = module + ".2";
  const absl::StatusOr<TensorRange> range = weights.Find(first + ".weight");
  if (!range.ok()) return {};
  const int64_t hidden = range->shape.empty() ? 1 : range->shape[0];
  std::vector<ProjectionSpec> layers = {
      Linear(dim, hidden, first, weights.Contains(first + ".bias"))};
  if (weights.Contains(second + ".weight")) {
    layers.push_back(Linear(hidden, 1, second, weights.Contains(second + ".bias")));
  }
  return layers;
}

}  // namespace

bool HasMetaNames(const WeightStore& weights) {
  return weights.Contains("tok_embeddings.weight") && !HasTowerNames(weights);
}

bool HasTowerNames(const WeightStore& weights) {
  return weights.Contains("embedding_layer.layers.0.weight");
}

LayerSpec TowerLayer(const DecoderShape& shape, const WeightStore& weights, int32_t layer) {
  std::string name = LayerNameOf(weights, layer);
  if (weights.Contains(name + ".router.weight")) name += ".transformer_block";
  const std::string attention = name + ".block.residual_attention.layer";
  const std::string ffn = name + ".block.residual_feedforward.layer";
  DenseFfnSpec dense;
  dense.hidden = shape.hidden;
  dense.gated = false;
  dense.activation = shape.activation;
  dense.up = Linear(shape.dim, shape.hidden, ffn + ".feedforward.logging_ff_pre_relu", false);
  dense.down = Linear(shape.hidden, shape.dim, ffn + ".feedforward.logging_ff_post_relu", false);
  LayerSpec spec;
  spec.sublayers.resize(2);
  spec.sublayers[0].input_norm = TowerNorm(shape, attention + ".pre_norm");
  spec.sublayers[0].block = TowerAttention(shape, attention + ".attention");
  spec.sublayers[1].input_norm = TowerNorm(shape, ffn + ".pre_norm");
  spec.sublayers[1].block = std::move(dense);
  return spec;
}

void NameDepthRouter(const WeightStore& weights,
                     int32_t layer,
                     int64_t dim,
                     DepthRouterSpec& router) {
  const std::string name = LayerNameOf(weights, layer);
  std::string module = name + ".mod_router";
  std::string predictor = name + ".mod_predictor";
  if (weights.Contains(name + ".router.weight_predictor.weight")) {
    module = name + ".router.weight_predictor";
  } else if (HasTowerNames(weights)) {  // its aux_router serves training only
    module = name + ".router";
    predictor.clear();
  } else if (HasMetaNames(weights)) {  // one router for all layers, listed under each
    module = name + ".router";
    predictor = name + ".aux_router";
  }
  router.weight = module + ".weight";
  if (weights.Contains(module + ".bias")) router.bias = module + ".bias";
  router.predictor = Predictor(predictor, dim, weights);
}

void NameSublayers(const WeightStore& weights, int32_t layer, LayerSpec& spec) {
  const bool meta = HasMetaNames(weights);
  const std::string name = LayerNameOf(weights, layer);
  const bool wrapped = weights.Contains(name + ".router.weight_predictor.weight");
  ForEachName(spec, [&](std::string& tensor) {
    if (meta) tensor = MetaName(tensor);
    if (wrapped && tensor.starts_with(name)) tensor.insert(name.size(), ".block");
  });
}

void NameAround(ConfigReader& config, const WeightStore& weights, ModelSpec& spec) {
  StackSpec& stack = spec.stacks.front();
  if (HasTowerNames(weights)) {
    stack.embedding.weight = "embedding_layer.layers.0.weight";
    stack.embedding.position_weight = "embedding_layer.layers.1.layer.weight";
    stack.final_norm.reset();
    spec.head.weight = "head.weight";
  }
  if (!HasMetaNames(weights)) return;
  stack.embedding.weight = MetaName(stack.embedding.weight);
  stack.final_norm->weight = MetaName(stack.final_norm->weight);
  const bool tied = config.Bool("tie_word_embeddings", !weights.Contains("output.weight"));
  spec.head.weight = tied ? "" : "output.weight";
}

}  // namespace sluice
