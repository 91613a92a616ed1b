// The mapping functions of the family files, one line each; architectures.cc lists them by
// model_type.
#pragma once

#include "absl/status/statusor.h"
#include "engine/model/model_spec.h"
#include "engine/weights/weight_store.h"
#include "nlohmann/json.hpp"

namespace sluice {

absl::StatusOr<ModelSpec> MapDeepseek(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapDeepseekV2(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapDeepseekV3(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapExpertChoice(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapGlam(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapGptOss(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapGranite(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapGraniteMoe(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapGpt2(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapGshard(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapHuginn(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapJetMoe(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapLlama(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapMistral(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapMixtral(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapMixtureOfDepths(const nlohmann::json& config,
                                             const WeightStore& weights);
absl::StatusOr<ModelSpec> MapMixtureOfRecursions(const nlohmann::json& config,
                                                 const WeightStore& weights);
absl::StatusOr<ModelSpec> MapMixtureOfTokens(const nlohmann::json& config,
                                             const WeightStore& weights);
absl::StatusOr<ModelSpec> MapMoeut(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapOlmo2(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapOlmoe(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapOuro(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapQwen2(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapQwen2Moe(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapSwitchTransformers(const nlohmann::json& config,
                                                const WeightStore& weights);
absl::StatusOr<ModelSpec> MapQwen3(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapQwen3Moe(const nlohmann::json& config, const WeightStore& weights);

absl::StatusOr<ModelSpec> MapBigBird(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapEtc(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapSparseAttention(const nlohmann::json& config,
                                             const WeightStore& weights);
absl::StatusOr<ModelSpec> MapSparselyGated(const nlohmann::json& config,
                                           const WeightStore& weights);
absl::StatusOr<ModelSpec> MapSwitch(const nlohmann::json& config, const WeightStore& weights);
absl::StatusOr<ModelSpec> MapSparseUniversal(const nlohmann::json& config,
                                             const WeightStore& weights);
absl::StatusOr<ModelSpec> MapUniversalTransformer(const nlohmann::json& config,
                                                  const WeightStore& weights);

}  // namespace sluice
