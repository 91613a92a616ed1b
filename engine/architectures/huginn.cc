// Huginn, recurrent depth (Geiping et al. 2025, arXiv 2502.05171; models.md 7.2): prelude, a core
// that runs num_steps times on a latent state with the prelude's output injected, coda. Source of
// names and formulae: seal-rg/recurrent-pretraining, recpre/raven_modeling_minimal.py. The state
// starts at zero (init_scale 0 there), so that an answer is a function of its request.
#include "absl/strings/str_cat.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/architectures/recurrence_parts.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

struct HuginnConfig {
  int32_t vocab_size, num_heads, num_kv_heads, prelude, core, coda, num_steps, max_positions;
  int64_t dim, hidden;
  float norm_epsilon, embedding_scale;
  double theta;
  bool qk_bias, bias, tied;
  std::optional<ExitSpec> exit;
  RepeatKv halted_kv;
};

// Keys whose other values are other models.
void RefuseVariants(ConfigReader& config) {
  RefuseOtherValues(config, {{"block_class_name", "SandwichBlock"},
                             {"mlp_class_name", "GatedMLP"},
                             {"nonlin_name", "SiLU"},
                             {"injection_type", "linear"},
                             {"state_init", "like-init"}});
  const std::string norm = config.String("norm_class_name", "RMSNorm_llama");
  if (norm != "RMSNorm_llama" && norm != "RMSNorm")
    config.Unimplemented("norm_class_name", "a norm other than RMSNorm");
  if (config.Has("rope_scaling")) config.Unimplemented("rope_scaling", "a scaled rotary position");
}

// generate_with_adaptive_compute, its criterion and its default thresholds. The others compare what
// the head says, for which coda and head would have to run after every repeat.
void ReadExit(ConfigReader& config, HuginnConfig& found) {
  const size_t criterion = config.Choice(
      "exit_criterion",
      {"none", "latent-diff", "entropy-diff", "kl", "minp-kl", "cosine", "argmax-stability"}, 0);
  if (criterion > 1)
    config.Unimplemented("exit_criterion", "a criterion other than none and latent-diff");
  const double threshold = config.Number("exit_threshold", 0.0, 1.0, 0.03);
  found.halted_kv = ReadHaltedKv(config, RepeatKv::kOwn);
  for (const char* key : {"exit_threshold", "halted_kv"}) {
    if (criterion == 0 && config.Has(key)) config.Invalid(key, "needs an exit_criterion");
  }
  if (criterion == 1) found.exit = ExitSpec{.threshold = static_cast<float>(threshold)};
}

HuginnConfig ReadConfig(ConfigReader& config) {
  HuginnConfig found{};
  found.vocab_size = config.Int32("vocab_size", 1, kMaxVocab);
  const int32_t multiple = config.Int32("padding_multiple", 1, kMaxVocab, 1);
  const int64_t padded = (int64_t{found.vocab_size} + multiple - 1) / multiple * multiple;
  found.vocab_size = config.Int32("padded_vocab_size", found.vocab_size, kMaxVocab, padded);
  found.dim = config.Int("n_embd", 1, kMaxDim);
  found.hidden = config.Int("intermediate_size", 1, kMaxHidden);
  found.num_heads = config.Int32("n_heads", 1, kMaxHeads);
  found.num_kv_heads = config.Int32("num_key_value_heads", 1, kMaxHeads, found.num_heads);
  if (found.dim % found.num_heads != 0 || found.dim / found.num_heads % 2 != 0)
    config.Invalid("n_heads", "must divide n_embd into heads of an even size");
  if (found.num_heads % found.num_kv_heads != 0)
    config.Invalid("num_key_value_heads", "must divide n_heads");
  found.prelude = config.Int32("n_layers_in_prelude", 1, kMaxLayers);
  found.core = config.Int32("n_layers_in_recurrent_block", 1, kMaxLayers);
  found.coda = config.Int32("n_layers_in_coda", 1, kMaxLayers);
  const int32_t mean = config.Int32("mean_recurrence", 1, kMaxLayers);
  found.num_steps = config.Int32("num_steps", 1, kMaxLayers, mean);
  found.max_positions = config.Int32("block_size", 1, kMaxPositions);
  found.norm_epsilon = static_cast<float>(config.Number("norm_eps", 0.0, 1.0, 1e-6));
  found.theta = config.Number("rope_base", 1.0, 1e12, 50'000.0);
  found.qk_bias = config.Bool("qk_bias", true);
  if (found.qk_bias && found.num_kv_heads != found.num_heads)
    config.Unimplemented("qk_bias", "a bias of grouped keys");
  found.bias = config.Bool("bias", false);
  found.tied = config.Bool("tie_embeddings", true);
  RefuseVariants(config);
  ReadExit(config, found);
  const nlohmann::json* values = config.Member("init_values");
  if (values == nullptr || !values->is_object()) {
    config.Invalid("init_values", "must be an object with embed_scale");
    return found;
  }
  ConfigReader init(*values, "init_values.");
  found.embedding_scale = static_cast<float>(init.Number("embed_scale", -1e6, 1e6));
  config.Merge(init.status());
  return found;
}

NormSpec Norm(const HuginnConfig& config, const std::string& module) {
  return {.kind = NormKind::kRms, .epsilon = config.norm_epsilon, .weight = module + ".weight"};
}

// x = norm_2(x + attn(norm_1 x)); x = norm_4(x + mlp(norm_3 x)).
LayerSpec SandwichBlock(const HuginnConfig& config, const std::string& name) {
  AttentionSpec attention;
  attention.num_heads = config.num_heads;
  attention.num_kv_heads = config.num_kv_heads;
  attention.head_dim = static_cast<int32_t>(config.dim / config.num_heads);
  const int64_t kv_width = int64_t{config.num_kv_heads} * attention.head_dim;
  const std::string qkv = name + ".attn.Wqkv.weight";
  attention.q = {.in = config.dim, .out = config.dim, .weight = qkv};
  attention.k = {.in = config.dim, .out = kv_width, .weight = qkv, .row_begin = config.dim};
  attention.v = {
      .in = config.dim, .out = kv_width, .weight = qkv, .row_begin = config.dim + kv_width};
  if (config.qk_bias) attention.q.bias = attention.k.bias = name + ".attn.qk_bias";
  attention.o = Linear(config.dim, config.dim, name + ".attn.proj", false);
  attention.rope = RopeSpec{
      .style = RopeStyle::kInterleaved, .rotary_dim = attention.head_dim, .theta = config.theta};
  DenseFfnSpec ffn;
  ffn.hidden = config.hidden;
  ffn.gate = Linear(config.dim, config.hidden, name + ".mlp.fc", false);
  ffn.up = ffn.gate;
  ffn.up.row_begin = config.hidden;
  ffn.down = Linear(config.hidden, config.dim, name + ".mlp.proj", false);
  LayerSpec layer;
  layer.sublayers.resize(2);
  layer.sublayers[0].input_norm = Norm(config, name + ".norm_1");
  layer.sublayers[0].residual_norm = Norm(config, name + ".norm_2");
  layer.sublayers[0].block = std::move(attention);
  layer.sublayers[1].input_norm = Norm(config, name + ".norm_3");
  layer.sublayers[1].residual_norm = Norm(config, name + ".norm_4");
  layer.sublayers[1].block = std::move(ffn);
  return layer;
}

LayerGroupSpec MakeGroup(const HuginnConfig& config,
                         const std::string& name,
                         const std::string& module,
                         int32_t num_layers) {
  LayerGroupSpec group;
  group.name = name;
  for (int32_t i = 0; i < num_layers; ++i)
    group.layers.push_back(SandwichBlock(config, absl::StrCat("transformer.", module, ".", i)));
  return group;
}

}  // namespace

absl::StatusOr<ModelSpec> MapHuginn(const nlohmann::json& json, const WeightStore& /*weights*/) {
  ConfigReader reader(json);
  const HuginnConfig config = ReadConfig(reader);
  ModelSpec spec;
  spec.family = "huginn";
  spec.max_positions = config.max_positions;
  spec.eos_token_ids = ReadEosTokenIds(reader, config.vocab_size);
  if (!config.tied) spec.head.weight = "lm_head.weight";
  RETURN_IF_ERROR(reader.status());
  StackSpec stack;
  stack.embedding.vocab_size = config.vocab_size;
  stack.embedding.dim = config.dim;
  stack.embedding.weight = "transformer.wte.weight";
  stack.embedding.scale = config.embedding_scale;
  stack.groups.push_back(MakeGroup(config, "prelude", "prelude", config.prelude));
  LayerGroupSpec core = MakeGroup(config, "core", "core_block", config.core);
  core.repeat.times = config.num_steps;
  core.repeat.adjustable = true;
  if (config.exit.has_value()) {
    core.repeat.halting = HaltingKind::kConvergence;
    core.repeat.exit = config.exit;
    core.repeat.kv = config.halted_kv;
  }
  core.repeat.injection = Linear(2 * config.dim, config.dim, "transformer.adapter", config.bias);
  core.output_norm = Norm(config, "transformer.ln_f");
  stack.groups.push_back(std::move(core));
  stack.groups.push_back(MakeGroup(config, "coda", "coda", config.coda));
  stack.final_norm = Norm(config, "transformer.ln_f");  // the same one again
  spec.stacks.push_back(std::move(stack));
  return spec;
}

}  // namespace sluice
