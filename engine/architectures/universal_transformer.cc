// Universal Transformer as a causal language model (Dehghani et al. 2018, arXiv 1807.03819;
// models.md 4.1): a few layers repeated, a signal of position and step added before each repeat,
// and Adaptive Computation Time (Graves 2016, arXiv 1603.08983), which gives each row a number of
// repeats and mixes their states. Source of formulae: tensorflow/tensor2tensor,
// models/research/universal_transformer_util.py, layers/common_attention.py. There are no published
// weights: names and config keys are ours, README.md.
#include <cmath>

#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/architectures/recurrence_parts.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

struct UniversalConfig {
  int32_t vocab_size, num_layers, num_heads, head_dim, max_positions;
  int64_t dim, hidden;
  Activation activation;
  float norm_epsilon, embedding_scale;
  bool pre_norm, tied;
  RepeatSpec repeat;
};

void ReadSignal(ConfigReader& config, RepeatSpec& repeat) {
  StepSignalSpec signal;
  signal.positions = config.Bool("position_signal", true);
  const size_t kind = config.Choice("step_signal", {"learned", "sinusoid", "none"}, 0);
  signal.steps = kind != 2;
  if (kind == 0) signal.step_weight = "model.step_signal.weight";
  if (signal.positions || signal.steps) repeat.signal = signal;
}

RepeatSpec ReadRepeat(ConfigReader& config) {
  RepeatSpec repeat;
  repeat.times = config.Int32("act_max_steps", 1, kMaxLayers);
  repeat.adjustable = true;
  ReadSignal(config, repeat);
  const size_t type = config.Choice(
      "act_type", {"basic", "accumulated", "interpolated", "none", "global", "random"}, 0);
  const double epsilon = config.Number("act_epsilon", 0.0, 1.0, 0.01);
  const RepeatKv kv = ReadHaltedKv(config, RepeatKv::kLatest);
  if (type == 4) config.Unimplemented("act_type", "one halting for all rows of a sequence");
  if (type == 5) config.Unimplemented("act_type", "halting by chance");
  if (type == 3 && config.Has("halted_kv")) config.Invalid("halted_kv", "needs an act_type");
  if (type > 2) return repeat;  // a fixed number of repeats
  repeat.halting = HaltingKind::kAct;
  repeat.kv = kv;
  repeat.exit = ExitSpec{.weight = "model.halting.weight",
                         .bias = "model.halting.bias",
                         .threshold = static_cast<float>(1.0 - epsilon),
                         .output = static_cast<ActOutput>(type)};
  return repeat;
}

UniversalConfig ReadConfig(ConfigReader& config) {
  UniversalConfig found{};
  found.vocab_size = config.Int32("vocab_size", 1, kMaxVocab);
  found.dim = config.Int("hidden_size", 2, kMaxDim);
  found.hidden = config.Int("intermediate_size", 1, kMaxHidden);
  found.num_layers = config.Int32("num_inrecurrence_layers", 1, kMaxLayers, 1);
  found.num_heads = config.Int32("num_attention_heads", 1, kMaxHeads);
  if (found.dim % found.num_heads != 0)
    config.Invalid("num_attention_heads", "must divide hidden_size");
  found.head_dim = static_cast<int32_t>(found.dim / found.num_heads);
  found.activation = ReadActivation(config, "hidden_act", "relu");
  found.norm_epsilon = static_cast<float>(config.Number("layer_norm_eps", 0.0, 1.0, 1e-6));
  found.embedding_scale = static_cast<float>(
      config.Number("embedding_scale", -1e6, 1e6, std::sqrt(static_cast<double>(found.dim))));
  found.pre_norm = config.Bool("pre_norm", true);
  found.tied = config.Bool("tie_word_embeddings", true);
  found.max_positions = config.Int32("max_position_embeddings", 1, kMaxPositions, 1'024);
  found.repeat = ReadRepeat(config);
  RefuseOtherValues(config, {{"recurrence_type", "basic"},
                             {"add_or_concat_timing_signal", "add"},
                             {"transformer_ffn_type", "fc"}});
  RefuseSwitches(config, {"add_sru", "add_ffn_unit_to_the_transition_function"});
  return found;
}

LayerSpec Layer(const UniversalConfig& config, int32_t i) {
  const std::string name = LayerName(i);
  AttentionSpec attention;
  attention.num_heads = attention.num_kv_heads = config.num_heads;
  attention.head_dim = config.head_dim;
  const std::pair<ProjectionSpec*, const char*> parts[] = {
      {&attention.q, "q"}, {&attention.k, "k"}, {&attention.v, "v"}, {&attention.o, "o"}};
  for (const auto& [part, letter] : parts)
    *part = Linear(config.dim, config.dim, name + ".self_attn." + letter + "_proj", false);
  DenseFfnSpec ffn;
  ffn.hidden = config.hidden;
  ffn.gated = false;
  ffn.activation = config.activation;
  ffn.up = Linear(config.dim, config.hidden, name + ".mlp.up_proj", true);
  ffn.down = Linear(config.hidden, config.dim, name + ".mlp.down_proj", true);
  const NormSpec norms[] = {LayerNorm(config.norm_epsilon, name + ".input_layernorm"),
                            LayerNorm(config.norm_epsilon, name + ".post_attention_layernorm")};
  LayerSpec layer;
  layer.sublayers.resize(2);
  for (size_t s = 0; s < 2; ++s) {
    SublayerSpec& sublayer = layer.sublayers[s];
    (config.pre_norm ? sublayer.input_norm : sublayer.residual_norm) = norms[s];
  }
  layer.sublayers[0].block = std::move(attention);
  layer.sublayers[1].block = std::move(ffn);
  return layer;
}

}  // namespace

absl::StatusOr<ModelSpec> MapUniversalTransformer(const nlohmann::json& json,
                                                  const WeightStore& /*weights*/) {
  ConfigReader reader(json);
  const UniversalConfig config = ReadConfig(reader);
  ModelSpec spec;
  spec.family = "universal_transformer";
  spec.max_positions = config.max_positions;
  spec.eos_token_ids = ReadEosTokenIds(reader, config.vocab_size);
  RETURN_IF_ERROR(reader.status());
  if (!config.tied) spec.head.weight = "lm_head.weight";
  StackSpec stack;
  stack.embedding.vocab_size = config.vocab_size;
  stack.embedding.dim = config.dim;
  stack.embedding.weight = "model.embed_tokens.weight";
  stack.embedding.scale = config.embedding_scale;
  LayerGroupSpec& group = stack.groups.emplace_back();
  group.name = "steps";
  group.repeat = config.repeat;
  for (int32_t i = 0; i < config.num_layers; ++i) group.layers.push_back(Layer(config, i));
  if (config.pre_norm) stack.final_norm = LayerNorm(config.norm_epsilon, "model.norm");
  spec.stacks.push_back(std::move(stack));
  return spec;
}

}  // namespace sluice
