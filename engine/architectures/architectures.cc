#include "engine/architectures/architectures.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/architectures/config_reader.h"
#include "engine/architectures/families.h"
#include "engine/architectures/generation_config.h"
#include "engine/architectures/router_tuning.h"
#include "engine/architectures/soft_adapter.h"
#include "engine/architectures/weight_check.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/weights/safetensors.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr char kConfigFile[] = "config.json";

absl::StatusOr<ModelSpec> MapConfig(const json& config, const WeightStore& weights) {
  ASSIGN_OR_RETURN(const std::string type, ReadString(config, "model_type"));
  std::string known;
  for (const Architecture& architecture : Architectures()) {
    const std::string name(architecture.model_type);
    if (name == type) return architecture.map(config, weights);
    absl::StrAppend(&known, known.empty() ? "" : ", ", name);
  }
  return absl::UnimplementedError(absl::StrCat("'model_type' ", QuotedTensorName(type),
                                               " is not supported; supported are ", known));
}

}  // namespace

const std::vector<Architecture>& Architectures() {
  static const std::vector<Architecture> table = {
      {"deepseek", MapDeepseek},
      {"gpt2", MapGpt2},
      {"huginn_raven", MapHuginn},
      {"llama", MapLlama},
      {"mistral", MapMistral},
      {"mixtral", MapMixtral},
      {"mod", MapMixtureOfDepths},
      {"moeut", MapMoeut},
      {"mor", MapMixtureOfRecursions},
      {"mot", MapMixtureOfTokens},
      {"olmo2", MapOlmo2},
      {"olmoe", MapOlmoe},
      {"qwen2", MapQwen2},
      {"qwen2_moe", MapQwen2Moe},
      {"qwen3", MapQwen3},
      {"qwen3_moe", MapQwen3Moe},
      {"sut", MapSparseUniversal},
      {"granite", MapGranite},
      {"granitemoe", MapGraniteMoe},
      {"gpt_oss", MapGptOss},
      {"deepseek_v2", MapDeepseekV2},
      {"deepseek_v3", MapDeepseekV3},
      {"ouro", MapOuro},
      {"switch_transformers", MapSwitchTransformers},
      {"universal_transformer", MapUniversalTransformer},
      {"sparse_attention", MapSparseAttention},
      {"big_bird", MapBigBird},
      {"etc", MapEtc},
      {"jetmoe", MapJetMoe},
      {"sparsely_gated", MapSparselyGated},
      {"gshard", MapGshard},
      {"glam", MapGlam},
      {"switch", MapSwitch},
      {"expert_choice", MapExpertChoice},
  };
  return table;
}

absl::StatusOr<ModelSpec> SpecFromConfig(const json& config, const WeightStore& weights) {
  ASSIGN_OR_RETURN(ModelSpec spec, MapConfig(config, weights));
  RETURN_IF_ERROR(AddRouterTuning(config, spec));
  RETURN_IF_ERROR(AddSoftAdapter(config, weights, spec));
  RETURN_IF_ERROR(ValidateSpec(spec));
  RETURN_IF_ERROR(CheckWeights(spec, weights));
  return spec;
}

absl::StatusOr<ModelSpec> LoadModelSpec(const std::string& model_directory,
                                        const WeightStore& weights) {
  ASSIGN_OR_RETURN(const json config, ReadConfigFile(model_directory, kConfigFile));
  const std::string path = absl::StrCat(model_directory, "/", kConfigFile);
  absl::StatusOr<ModelSpec> spec = SpecFromConfig(config, weights);
  if (!spec.ok()) return WithPath(path, spec.status());
  RETURN_IF_ERROR(AddGenerationEos(model_directory, *spec));
  return spec;
}

}  // namespace sluice
