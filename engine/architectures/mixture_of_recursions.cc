// Mixture-of-Recursions (Bae et al. 2025, arXiv 2507.10524; models.md 7.1): a Llama whose middle is
// one block run up to num_recursion times. Token choice: a router says how often before the first
// time. Expert choice: each recursion's router takes some of the rows that the one before took.
// Layout middle_cycle: first and last layer of their own. Config keys in README.md. Source of
// names: raymin0223/mixture_of_recursions, token_choice_router.py and expert_choice_router.py.
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
  bool expert_choice = false;
  std::vector<double> capacity;  // per recursion
  GateFunction gate = GateFunction::kSigmoid;
  DepthDecide prefill_decide = DepthDecide::kRouterThreshold;
  bool mlp_router = false;
  float input_scale = 1.0f;  // 1 / temp
  bool shares_kv = false;    // later recursions read what the first one stored
};

// The defaults are those of the published configurations: 1, 2/3, 1/3 of the rows.
void ReadExpertChoice(ConfigReader& mor, RecursionConfig& found) {
  constexpr int64_t kMany = 4'096;
  constexpr GateFunction kGates[] = {GateFunction::kSigmoid, GateFunction::kIdentity,
                                     GateFunction::kTanh};
  found.gate = kGates[mor.Choice("router_func", {"sigmoid", "identity", "tanh"}, 0)];
  found.alpha = static_cast<float>(mor.Number("alpha", -1e3, 1e3, 0.1));
  const bool top_k = mor.Choice("prefill_decide", {"router_threshold", "router_topk"}, 0) == 1;
  if (top_k) found.prefill_decide = DepthDecide::kRouterTopK;
  for (int32_t r = 0; r < found.num_recursion && r < kMany; ++r) {
    found.capacity.push_back(static_cast<double>(found.num_recursion - r) /
                             static_cast<double>(found.num_recursion));
  }
  const nlohmann::json* list = mor.Member("capacity");
  if (list == nullptr) return;
  if (!list->is_array() || list->size() != found.capacity.size())
    return mor.Invalid("capacity", "must be a list with one share per recursion");
  for (size_t r = 0; r < found.capacity.size(); ++r) {
    const nlohmann::json& share = (*list)[r];
    const double value = share.is_number() ? share.get<double>() : 0.0;
    if (!(value > 0.0 && value <= 1.0))
      return mor.Invalid("capacity", "must hold numbers above 0.0 and up to 1.0");
    found.capacity[r] = value;
  }
}

RecursionConfig ReadRecursion(ConfigReader& config, const DecoderShape& shape) {
  RecursionConfig found;
  const nlohmann::json* object = config.Member("mor");
  if (object == nullptr || !object->is_object()) {
    config.Invalid("mor", "must be an object");
    return found;
  }
  ConfigReader mor(*object, "mor.");
  found.expert_choice = mor.Choice("type", {"token", "expert"}, std::nullopt) == 1;
  if (mor.Choice("sharing", {"middle_cycle", "cycle", "sequence", "middle_sequence"}, 0) != 0)
    mor.Unimplemented("sharing", "a layout other than middle_cycle");
  const size_t router = mor.Choice("router_type", {"linear", "mlp", "wide_mlp"}, 0);
  found.mlp_router = router == 1;
  if (router == 2) mor.Unimplemented("router_type", "a router other than linear and mlp");
  found.shares_kv = mor.Bool("kv_sharing", false);
  if (found.shares_kv && found.expert_choice)
    mor.Unimplemented("kv_sharing", "sharing between the layers of expert choice");
  if (mor.Bool("update_cache", false))
    mor.Unimplemented("update_cache", "keys and values that last for one call");
  if (mor.Choice("gating", {"weighted", "unweighted"}, 0) != 0)
    mor.Unimplemented("gating", "a recursion that is not weighted");
  found.input_scale = static_cast<float>(1.0 / mor.Number("temp", 1e-3, 1e6, 1.0));
  found.num_recursion = mor.Int32("num_recursion", 1, kMaxLayers);
  if (found.expert_choice) {
    ReadExpertChoice(mor, found);
  } else {
    const bool sigmoid = mor.Choice("router_func", {"softmax", "sigmoid"}, 0) == 1;
    found.score = sigmoid ? ScoreFunction::kSigmoid : ScoreFunction::kSoftmax;
    found.alpha = static_cast<float>(mor.Number("alpha", -1e6, 1e6, 1.0));
    found.balanced = mor.Choice("balancing", {"loss", "loss_free"}, 0) == 1;
  }
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
  group.repeat.adjustable = true;
  if (recursion.shares_kv) group.repeat.kv = RepeatKv::kFirst;
  const std::string router = name + ".mor_router.router";
  group.repeat.depth_router = RouterSpec{.score = recursion.score,
                                         .num_experts = recursion.num_recursion,
                                         .top_k = 1,
                                         .scale = recursion.alpha,
                                         .weight = router + ".weight",
                                         .input_scale = recursion.input_scale};
  if (recursion.mlp_router) {  // util.py, MLPRouter
    group.repeat.depth_router->weight = router + ".2.weight";
    group.repeat.depth_router->hidden = 2 * shape.dim;
    group.repeat.depth_router->hidden_weight = router + ".0.weight";
    group.repeat.depth_router->hidden_activation = Activation::kGelu;
  }
  if (recursion.balanced)
    group.repeat.depth_router->selection_bias = name + ".mor_router.router_bias";
  // The recursions' tensors are one tensor under several names: token choice ties them all.
  for (int32_t i = 0; i < recursion.base_depth; ++i)
    group.layers.push_back(LlamaLayer(shape, absl::StrCat(name, ".block_list.0.", i)));
  return group;
}

// Every recursion has its own tensors: the published code ties norms and FFNs, but makes attention
// anew, so they are read as they stand.
LayerSpec ExpertChoiceLayer(const DecoderShape& shape, const RecursionConfig& config, int32_t r) {
  const std::string name = LayerName(1 + r);
  LayerSpec layer;
  for (int32_t i = 0; i < config.base_depth; ++i) {
    LayerSpec part = LlamaLayer(shape, absl::StrCat(name, ".block.", i));
    for (SublayerSpec& sublayer : part.sublayers) layer.sublayers.push_back(std::move(sublayer));
  }
  const std::string router = name + ".mor_router.router";
  layer.depth = DepthRouterSpec{.weight = router + ".weight",
                                .input_scale = config.input_scale,
                                .gate = config.gate,
                                .combine = DepthCombine::kPlusBlock,
                                .prefill_decide = config.prefill_decide,
                                .gate_scale = config.alpha,
                                .nested = r > 0,
                                .capacity = config.capacity[static_cast<size_t>(r)]};
  if (config.mlp_router) {
    layer.depth->weight = router + ".2.weight";
    layer.depth->hidden = Linear(shape.dim, 2 * shape.dim, router + ".0", false);
  }
  return layer;
}

}  // namespace

absl::StatusOr<ModelSpec> MapMixtureOfRecursions(const nlohmann::json& json,
                                                 const WeightStore& weights) {
  ConfigReader reader(json);
  const DecoderShape shape = ReadDecoderShape(reader, "mor");
  const RecursionConfig recursion = ReadRecursion(reader, shape);
  RETURN_IF_ERROR(reader.status());
  ASSIGN_OR_RETURN(ModelSpec spec, LlamaModel(reader, weights, shape, {}));
  if (recursion.expert_choice) {
    std::vector<LayerSpec>& layers = spec.stacks[0].groups[0].layers;
    layers.push_back(LlamaLayer(shape, LayerName(0)));
    for (int32_t r = 0; r < recursion.num_recursion; ++r)
      layers.push_back(ExpertChoiceLayer(shape, recursion, r));
    layers.push_back(LlamaLayer(shape, LayerName(recursion.num_recursion + 1)));
    return spec;
  }
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
