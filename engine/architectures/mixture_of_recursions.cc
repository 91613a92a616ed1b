// Mixture-of-Recursions (Bae et al. 2025, arXiv 2507.10524; models.md 7.1), token choice: a Llama
// whose middle is one block run up to num_recursion times, the number chosen per token by a router
// before the first. Layout middle_cycle: first and last layer of their own. Config keys in
// README.md. Source of names: raymin0223/mixture_of_recursions, token_choice_router.py.
#include "absl/strings/str_cat.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

struct RecursionConfig {
  int32_t num_recursion = 1;
  int32_t base_depth = 1;
  ScoreFunction score = ScoreFunction::kSoftmax;
  float alpha = 1.0f;
  bool balanced = false;  // loss-free balancing: router_bias decides, but does not weigh
};

RecursionConfig ReadRecursion(ConfigReader& config, const DecoderShape& shape) {
  RecursionConfig found;
  const nlohmann::json* object = config.Member("mor");
  if (object == nullptr || !object->is_object()) {
    config.Invalid("mor", "must be an object");
    return found;
  }
  ConfigReader mor(*object, "mor.");
  if (mor.Choice("type", {"token", "expert"}, std::nullopt) == 1)
    mor.Unimplemented("type", "expert choice");
  if (mor.Choice("sharing", {"middle_cycle", "cycle", "sequence", "middle_sequence"}, 0) != 0)
    mor.Unimplemented("sharing", "a layout other than middle_cycle");
  if (mor.Choice("router_type", {"linear", "mlp"}, 0) != 0)
    mor.Unimplemented("router_type", "a router other than linear");
  if (mor.Bool("kv_sharing", false)) mor.Unimplemented("kv_sharing", "sharing keys and values");
  if (mor.Number("temp", 0.0, 1e6, 1.0) != 1.0)
    mor.Unimplemented("temp", "a temperature other than 1");
  found.num_recursion = mor.Int32("num_recursion", 1, kMaxLayers);
  const bool sigmoid = mor.Choice("router_func", {"softmax", "sigmoid"}, 0) == 1;
  found.score = sigmoid ? ScoreFunction::kSigmoid : ScoreFunction::kSoftmax;
  found.alpha = static_cast<float>(mor.Number("alpha", -1e6, 1e6, 1.0));
  found.balanced = mor.Choice("balancing", {"loss", "loss_free"}, 0) == 1;
  const int32_t middle = shape.num_layers - 2;
  if (mor.status().ok() && (middle < 1 || middle % found.num_recursion != 0))
    mor.Invalid("num_recursion", "must divide num_hidden_layers - 2");
  found.base_depth = middle / found.num_recursion;
  config.Merge(mor.status());
  return found;
}

LayerSpec LlamaLayer(const DecoderShape& shape, const std::string& name) {
  LayerSpec layer;
  layer.sublayers.resize(2);
  layer.sublayers[0].input_norm = RmsNorm(shape, name + ".input_layernorm");
  layer.sublayers[0].block =
      LlamaAttention(shape, name + ".self_attn", 0, shape.attention_bias, shape.attention_bias);
  layer.sublayers[1].input_norm = RmsNorm(shape, name + ".post_attention_layernorm");
  layer.sublayers[1].block = GatedFfn(shape, name + ".mlp", shape.hidden);
  return layer;
}

LayerGroupSpec RecursiveGroup(const DecoderShape& shape, const RecursionConfig& recursion) {
  const std::string name = LayerName(1);
  LayerGroupSpec group;
  group.name = "recursion";
  group.repeat.times = recursion.num_recursion;
  group.repeat.halting = HaltingKind::kChosenDepth;
  group.repeat.depth_router = RouterSpec{.score = recursion.score,
                                         .num_experts = recursion.num_recursion,
                                         .top_k = 1,
                                         .scale = recursion.alpha,
                                         .weight = name + ".mor_router.router.weight"};
  if (recursion.balanced)
    group.repeat.depth_router->selection_bias = name + ".mor_router.router_bias";
  // The recursions' tensors are one tensor under several names: token choice ties them all.
  for (int32_t i = 0; i < recursion.base_depth; ++i)
    group.layers.push_back(LlamaLayer(shape, absl::StrCat(name, ".block_list.0.", i)));
  return group;
}

}  // namespace

absl::StatusOr<ModelSpec> MapMixtureOfRecursions(const nlohmann::json& json,
                                                 const WeightStore& weights) {
  ConfigReader reader(json);
  const DecoderShape shape = ReadDecoderShape(reader, "mor");
  const RecursionConfig recursion = ReadRecursion(reader, shape);
  RETURN_IF_ERROR(reader.status());
  ASSIGN_OR_RETURN(ModelSpec spec, LlamaModel(reader, weights, shape, {}));
  std::vector<LayerGroupSpec>& groups = spec.stacks[0].groups;
  groups.resize(3);
  groups[0].name = "first";
  groups[0].layers.push_back(LlamaLayer(shape, LayerName(0)));
  groups[1] = RecursiveGroup(shape, recursion);
  groups[2].name = "last";
  groups[2].layers.push_back(LlamaLayer(shape, LayerName(2)));
  return spec;
}

}  // namespace sluice
