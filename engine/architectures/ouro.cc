// Ouro, a looped language model (Zhu et al. 2025, arXiv 2510.25741; models.md 7.3): a Llama with
// sandwich norms whose layers all run total_ut_steps times, the final norm between the passes. A
// gate reads each pass' output; what it adds up to may end a row's passes. Source of names and
// formulae: ByteDance/Ouro-1.4B, modeling_ouro.py. Config keys in README.md.
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/architectures/recurrence_parts.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

// h = x + norm_2(attention(norm x)), x' = h + norm_2(mlp(norm h)); no biases.
LayerSpec SandwichLayer(const DecoderShape& shape, int32_t i) {
  const std::string name = LayerName(i);
  LayerSpec layer =
      PreNormLayer(shape, i, LlamaAttention(shape, name + ".self_attn", i, false, false),
                   GatedFfn(shape, name + ".mlp", shape.hidden));
  layer.sublayers[0].output_norm = RmsNorm(shape, name + ".input_layernorm_2");
  layer.sublayers[1].output_norm = RmsNorm(shape, name + ".post_attention_layernorm_2");
  return layer;
}

RepeatSpec ReadRepeat(ConfigReader& config, const DecoderShape& shape) {
  RepeatSpec repeat;
  repeat.times = config.Int32("total_ut_steps", 1, kMaxLayers, 4);
  repeat.adjustable = true;
  repeat.halting = HaltingKind::kExitGate;
  repeat.exit =
      ExitSpec{.weight = "model.early_exit_gate.weight",
               .bias = "model.early_exit_gate.bias",
               .threshold = static_cast<float>(config.Number("early_exit_threshold", 0, 1, 1.0))};
  repeat.kv = ReadHaltedKv(config, RepeatKv::kLatest);
  repeat.norm = RmsNorm(shape, "model.norm");
  // The mean over the passes is not what one pass computes; a fixed pass is routing.max_depth.
  RefuseSwitches(config, {"use_weighted_exit", "attention_bias", "mlp_bias"});
  if (config.Has("early_exit_step"))
    config.Unimplemented("early_exit_step", "a fixed exit other than by total_ut_steps");
  return repeat;
}

}  // namespace

absl::StatusOr<ModelSpec> MapOuro(const nlohmann::json& json, const WeightStore& weights) {
  ConfigReader config(json);
  const DecoderShape shape = ReadDecoderShape(config, "ouro");
  RepeatSpec repeat = ReadRepeat(config, shape);
  RETURN_IF_ERROR(config.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) layers.push_back(SandwichLayer(shape, i));
  ASSIGN_OR_RETURN(ModelSpec spec, LlamaModel(config, weights, shape, std::move(layers)));
  StackSpec& stack = spec.stacks[0];
  stack.groups[0].name = "pass";
  stack.groups[0].repeat = std::move(repeat);
  stack.final_norm.reset();  // the last pass ends with it
  return spec;
}

}  // namespace sluice
