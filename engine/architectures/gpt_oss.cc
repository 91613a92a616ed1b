// gpt-oss (models.md 2.14): biases on every projection, learned sinks, a window on every second
// layer, experts with biases and the clamped SwiGLU, softmax over the k largest router logits.
// Matrices of the experts are bf16 or f32 [E, in, out], or mxfp4 [E, out, in / 32, 16]. Source:
// openai/gpt-oss gpt_oss/torch/model.py; huggingface/transformers models/gpt_oss.
#include "engine/architectures/expert_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

constexpr double kAlpha = 1.702;

void CheckQuantization(ConfigReader& config) {
  const nlohmann::json* quantization = config.Member("quantization_config");
  if (quantization == nullptr) return;
  if (!quantization->is_object()) return config.Invalid("quantization_config", "must be an object");
  ConfigReader reader(*quantization, "quantization_config.");
  if (reader.String("quant_method") != "mxfp4")
    reader.Unimplemented("quant_method", "a method other than mxfp4");
  config.Merge(reader.status());
}

// The class behind these files has defaults of its own for what Llama's loader would default
// otherwise: a YaRN scaling, another theta, a window on every second layer.
DecoderShape ReadShape(ConfigReader& config) {
  DecoderShape shape = ReadDecoderShape(config, "gpt_oss");
  if (!config.Has("rms_norm_eps")) shape.norm_epsilon = 1e-5f;
  const nlohmann::json* parameters = config.Member("rope_parameters");
  if (parameters == nullptr && !config.Has("rope_scaling"))
    config.Invalid("rope_scaling", "is missing");
  const bool inside =
      parameters != nullptr && parameters->is_object() && parameters->contains("rope_theta");
  if (!inside && !config.Has("rope_theta")) config.Invalid("rope_theta", "is missing");
  if (config.Has("layer_types")) return shape;
  const int32_t window = config.Int32("sliding_window", 1, kMaxPositions, 128);
  for (size_t i = 0; i < shape.windows.size(); ++i) shape.windows[i] = i % 2 == 0 ? window : 0;
  return shape;
}

SwigluClamp ReadClamp(ConfigReader& config) {
  SwigluClamp clamp;
  clamp.alpha = static_cast<float>(config.Number("swiglu_alpha", 1e-3, 1e3, kAlpha));
  clamp.limit = static_cast<float>(config.Number("swiglu_limit", 1e-3, 1e6, 7.0));
  if (config.String("hidden_act", "silu") != "silu")
    config.Unimplemented("hidden_act", "an activation other than silu");
  return clamp;
}

AttentionSpec Attention(const DecoderShape& shape, int32_t layer, bool bias) {
  const std::string module = LayerName(layer) + ".self_attn";
  AttentionSpec attention = LlamaAttention(shape, module, layer, bias, bias);
  attention.sinks = module + ".sinks";
  return attention;
}

MoeFfnSpec Experts(const ExpertShape& experts,
                   const SwigluClamp& clamp,
                   const WeightStore& weights,
                   int32_t layer) {
  const std::string module = LayerName(layer) + ".mlp";
  MoeFfnSpec ffn;
  ffn.hidden = experts.hidden;
  ffn.activation = Activation::kClampedSwiglu;
  ffn.clamp = clamp;
  ffn.router.score = ScoreFunction::kSoftmaxOverTopK;
  ffn.router.num_experts = experts.num_experts;
  ffn.router.top_k = experts.top_k;
  ffn.router.weight = module + ".router.weight";
  ffn.router.bias = module + ".router.bias";
  ffn.experts.up = module + ".experts.gate_up_proj";
  ffn.experts.down = module + ".experts.down_proj";
  ffn.experts.up_bias = ffn.experts.up + "_bias";
  ffn.experts.down_bias = ffn.experts.down + "_bias";
  ffn.experts.fused_gate_up = true;
  ffn.experts.interleaved = true;
  if (weights.Contains(ffn.experts.up + "_blocks")) {
    ffn.experts.encoding = ExpertEncoding::kMxfp4;
  } else {
    ffn.experts.transposed = true;
  }
  return ffn;
}

}  // namespace

absl::StatusOr<ModelSpec> MapGptOss(const nlohmann::json& json, const WeightStore& weights) {
  ConfigReader config(json);
  const DecoderShape shape = ReadShape(config);
  const ExpertShape experts = ReadMixtralExperts(config, shape);
  const SwigluClamp clamp = ReadClamp(config);
  const bool bias = config.Bool("attention_bias", true);
  CheckQuantization(config);
  RETURN_IF_ERROR(config.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) {
    layers.push_back(
        PreNormLayer(shape, i, Attention(shape, i, bias), Experts(experts, clamp, weights, i)));
  }
  return LlamaModel(config, weights, shape, std::move(layers));
}

}  // namespace sluice
