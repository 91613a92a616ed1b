#include "engine/architectures/gguf_model.h"

#include <cmath>
#include <numbers>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/architectures/architectures.h"
#include "engine/architectures/weight_check.h"
#include "engine/status_macros.h"
#include "engine/weights/safetensors.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr char kRopeFactors[] = "rope_freqs.weight";
// Every published Llama 3.1, 3.2 and 3.3 has these (their config.json, rope_scaling).
constexpr double kLowFrequencyFactor = 1.0;
constexpr double kHighFrequencyFactor = 4.0;
constexpr int32_t kOriginalPositions = 8192;

// By what Llama 3 divides frequency i (transformers modeling_rope_utils.py, llama3).
double Llama3Factor(double theta, double head_dim, int64_t i, double factor) {
  const double wavelength =
      2.0 * std::numbers::pi * std::pow(theta, 2.0 * static_cast<double>(i) / head_dim);
  if (wavelength < kOriginalPositions / kHighFrequencyFactor) return 1.0;
  if (wavelength > kOriginalPositions / kLowFrequencyFactor) return factor;
  const double smooth = (kOriginalPositions / wavelength - kLowFrequencyFactor) /
                        (kHighFrequencyFactor - kLowFrequencyFactor);
  return 1.0 / ((1.0 - smooth) / factor + smooth);
}

// The file keeps only what the frequencies are divided by. Recognised as Llama 3's rule, or
// refused.
absl::Status ReadRopeFactors(WeightStore& weights, json& config) {
  if (!weights.Contains(kRopeFactors)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const TensorRange range, weights.Find(kRopeFactors));
  const auto head_dim = config["head_dim"].get<int64_t>();
  if (range.dtype != kernels::DType::kF32 || range.num_elements() != head_dim / 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor 'rope_freqs.weight' must be ", head_dim / 2, " F32 numbers"));
  }
  std::vector<float> factors(static_cast<size_t>(head_dim / 2));
  RETURN_IF_ERROR(weights.Read(kRopeFactors, 0, std::as_writable_bytes(std::span<float>(factors))));
  const double largest = factors.back();
  const auto theta = config["rope_theta"].get<double>();
  for (size_t i = 0; i < factors.size(); ++i) {
    const double expected =
        Llama3Factor(theta, static_cast<double>(head_dim), static_cast<int64_t>(i), largest);
    if (!(std::abs(factors[i] - expected) <= 1e-3 * expected)) {
      return absl::UnimplementedError(
          "tensor 'rope_freqs.weight' does not follow Llama 3's rule (factors 1 and 4, 8192 "
          "positions); other rules are not supported");
    }
  }
  if (config.contains("rope_scaling")) {
    return absl::UnimplementedError("rope.scaling.type together with 'rope_freqs.weight'");
  }
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", largest},
                            {"low_freq_factor", kLowFrequencyFactor},
                            {"high_freq_factor", kHighFrequencyFactor},
                            {"original_max_position_embeddings", kOriginalPositions}};
  return absl::OkStatus();
}

template <typename Visit>
void ForEachSublayer(ModelSpec& spec, Visit visit) {
  for (StackSpec& stack : spec.stacks) {
    for (LayerGroupSpec& group : stack.groups) {
      for (LayerSpec& layer : group.layers) {
        for (SublayerSpec& sublayer : layer.sublayers) visit(sublayer);
      }
    }
  }
}

void RotateNeighbours(ModelSpec& spec) {
  ForEachSublayer(spec, [](SublayerSpec& sublayer) {
    auto* attention = std::get_if<AttentionSpec>(&sublayer.block);
    if (attention != nullptr && attention->rope.has_value())
      attention->rope->style = RopeStyle::kInterleaved;
  });
}

// No key says which projections have a bias: they have those that stand in the file.
void TakeBiases(const WeightStore& weights, ModelSpec& spec) {
  const auto take = [&](ProjectionSpec& projection) {
    const size_t suffix = projection.weight.rfind(".weight");
    if (!projection.bias.empty() || suffix == std::string::npos) return;
    std::string bias = absl::StrCat(projection.weight.substr(0, suffix), ".bias");
    if (weights.Contains(bias)) projection.bias = std::move(bias);
  };
  ForEachSublayer(spec, [&](SublayerSpec& sublayer) {
    if (auto* attention = std::get_if<AttentionSpec>(&sublayer.block)) {
      for (auto* part : {&attention->q, &attention->k, &attention->v, &attention->o}) take(*part);
    } else if (auto* ffn = std::get_if<DenseFfnSpec>(&sublayer.block)) {
      for (auto* part : {&ffn->gate, &ffn->up, &ffn->down}) take(*part);
    }
  });
}

absl::Status CheckExperts(const GgufContents& contents,
                          const std::vector<GgufPart>& parts,
                          const json& config) {
  for (const GgufPart& part : parts) {
    if (part.name.find("{e}") == std::string::npos) continue;
    const int64_t experts = config.value("num_experts", int64_t{0});
    if (part.shape.front() == experts) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", QuotedTensorName(contents.tensors[part.tensor].name), " has ",
                     part.shape.front(), " experts, 'expert_count' says ", experts));
  }
  return absl::OkStatus();
}

// Every tensor of the file must be one that the spec names (CheckWeights asks for each of them).
absl::Status CheckNothingIsLeft(const GgufStore& weights, const GgufFamily& family) {
  const GgufTensor* tensor = weights.NeverFound();
  if (tensor == nullptr) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("tensor ", QuotedTensorName(tensor->name),
                                               " is not read by this ", family.architecture,
                                               " model and may change what it computes"));
}

absl::StatusOr<GgufModel> Load(ModelFile file) {
  ASSIGN_OR_RETURN(GgufContents contents, ReadGguf(file));
  ASSIGN_OR_RETURN(const GgufFamily family, FindGgufFamily(contents.metadata));
  ASSIGN_OR_RETURN(json config, GgufConfig(contents, family));
  ASSIGN_OR_RETURN(std::vector<GgufPart> parts, NameGgufTensors(contents.tensors, family));
  RETURN_IF_ERROR(CheckExperts(contents, parts, config));
  std::unique_ptr<GgufStore> weights =
      MakeGgufStore(std::move(file), std::move(contents.tensors), std::move(parts));
  RETURN_IF_ERROR(ReadRopeFactors(*weights, config));
  ASSIGN_OR_RETURN(ModelSpec spec, SpecFromConfig(config, *weights));
  if (family.interleaved_rope) RotateNeighbours(spec);
  TakeBiases(*weights, spec);
  RETURN_IF_ERROR(ValidateSpec(spec));
  RETURN_IF_ERROR(CheckWeights(spec, *weights));
  RETURN_IF_ERROR(CheckNothingIsLeft(*weights, family));
  return GgufModel{std::move(contents.metadata), std::move(weights), std::move(spec)};
}

}  // namespace

absl::StatusOr<GgufModel> LoadGgufModel(ModelFile file) {
  const std::string path = file.path();
  absl::StatusOr<GgufModel> model = Load(std::move(file));
  if (model.ok() || absl::StrContains(model.status().message(), path)) return model;
  return absl::Status(model.status().code(), absl::StrCat(path, ": ", model.status().message()));
}

}  // namespace sluice
