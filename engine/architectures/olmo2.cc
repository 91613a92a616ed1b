// OLMo 2: Llama whose norms stand behind attention and FFN instead of in front of them; q and k are
// normed over the whole projected vector. Source: huggingface/transformers
// models/olmo2/modeling_olmo2.py.
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {

absl::StatusOr<ModelSpec> MapOlmo2(const nlohmann::json& json, const WeightStore& weights) {
  ConfigReader config(json);
  DecoderShape shape = ReadDecoderShape(config, "olmo2");
  if (!config.Has("rms_norm_eps")) shape.norm_epsilon = 1e-5f;
  RETURN_IF_ERROR(config.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) {
    const std::string name = LayerName(i);
    AttentionSpec attention =
        LlamaAttention(shape, name + ".self_attn", i, shape.attention_bias, shape.attention_bias);
    attention.q_norm = RmsNorm(shape, name + ".self_attn.q_norm");
    attention.k_norm = RmsNorm(shape, name + ".self_attn.k_norm");
    attention.norm_per_head = false;
    LayerSpec layer;
    layer.sublayers = {{.output_norm = RmsNorm(shape, name + ".post_attention_layernorm"),
                        .block = std::move(attention)},
                       {.output_norm = RmsNorm(shape, name + ".post_feedforward_layernorm"),
                        .block = GatedFfn(shape, name + ".mlp", shape.hidden)}};
    layers.push_back(std::move(layer));
  }
  return LlamaModel(config, weights, shape, std::move(layers));
}

}  // namespace sluice
