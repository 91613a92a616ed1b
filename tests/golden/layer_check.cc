#include "tests/golden/layer_check.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/blocks/mixture_ffn.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "kernels/backend_factory.h"
#include "tests/golden/golden_compare.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr FamilyTolerance kF32 = {"", {1e-5f, 1e-6f}};  // of the README of the shared fixtures
constexpr FamilyTolerance kBf16 = {"", {4e-2f, 4e-2f}};
constexpr FamilyTolerance kInt8 = {"", {}, 0.0f, 0.0f, 0.1f};
constexpr FamilyTolerance kInt4 = {"", {}, 0.0f, 0.0f, 0.4f};

const FamilyTolerance& ToleranceOf(kernels::WeightFormat format) {
  if (format == kernels::WeightFormat::kInt8) return kInt8;
  if (format == kernels::WeightFormat::kInt4) return kInt4;
  return format == kernels::WeightFormat::kBF16 ? kBf16 : kF32;
}

absl::StatusOr<MixtureFfnSpec> ReadSpec(const json& config) {
  MixtureFfnSpec spec;
  ASSIGN_OR_RETURN(const int64_t experts, ReadInt(config, "n_experts", 1, 4'096));
  ASSIGN_OR_RETURN(const int64_t group_size, ReadInt(config, "group_size", 1, 4'096));
  ASSIGN_OR_RETURN(spec.hidden, ReadInt(config, "expert_size_effective", 1, 1 << 20));
  ASSIGN_OR_RETURN(const double temperature, ReadNumber(config, "temperature", 1e-3, 1e3));
  ASSIGN_OR_RETURN(const std::string activation, ReadString(config, "activation"));
  if (activation != "relu") return absl::UnimplementedError("'activation' must be relu");
  spec.num_experts = static_cast<int32_t>(experts);
  spec.group_size = static_cast<int32_t>(group_size);
  spec.temperature = static_cast<float>(temperature);
  const json* emit = FindMember(config, "emit_softmax_over_experts");
  spec.emit_over_experts = emit != nullptr && *emit == true;
  spec.controller = "controller";
  spec.up = "lin1";
  spec.down = "lin2";
  return spec;
}

// The weights with which the rows of the last run were mixed, row after row.
class Weights final : public ForwardObserver {
 public:
  void OnHidden(std::string_view /*name*/, int32_t /*instance*/, const Rows& /*rows*/) override {}
  void OnSelection(int32_t /*instance*/, std::span<const int32_t> /*origins*/) override {}
  void OnValues(std::string_view name,
                int32_t /*instance*/,
                const kernels::RowSet& origin,
                kernels::TensorView values) override {
    std::vector<float>& into = of_[std::string(name)];
    into.resize(static_cast<size_t>(origin.count * values.cols));
    for (int32_t i = 0; i < origin.count; ++i)
      std::copy_n(values.Row(i), values.cols, into.begin() + int64_t{origin[i]} * values.cols);
  }
  const std::vector<float>& of(const std::string& name) { return of_[name]; }

 private:
  std::map<std::string, std::vector<float>> of_;
};

// A block with what Forward needs around it.
class LayerRun {
 public:
  absl::Status Load(const std::string& folder, const json& config, const CheckOptions& options) {
    ASSIGN_OR_RETURN(spec_, ReadSpec(config));
    ASSIGN_OR_RETURN(dim_, ReadInt(config, "d_model", 1, 65'536));
    ASSIGN_OR_RETURN(backend_, kernels::CreateBackend({.device = options.device, .threads = 2}));
    ScratchDirectory scratch(
        absl::StrCat("layer-", options.device, "-", static_cast<int>(options.weights)));
    RETURN_IF_ERROR(CopyWeights(folder, scratch.path()));
    ASSIGN_OR_RETURN(const std::unique_ptr<WeightStore> weights, WeightStore::Open(scratch.path()));
    WeightLoader loader(*weights, *backend_, options.weights, nullptr);
    ASSIGN_OR_RETURN(block_, MixtureFfn::Load(spec_, dim_, loader));
    ASSIGN_OR_RETURN(Workspace workspace,
                     Workspace::Create(*backend_, block_->WorkspaceBytes(kMaxRows)));
    workspace_ = std::make_unique<Workspace>(std::move(workspace));
    ASSIGN_OR_RETURN(
        cache_, KvCache::Create(*backend_,
                                {{.name = "unused",
                                  .num_layers = 1,
                                  .geometry = {.num_kv_heads = 1, .key_dim = 4, .value_dim = 4}}},
                                {.memory_bytes = 1 << 16, .max_sequences = 1, .max_tokens = 16}));
    return absl::OkStatus();
  }

  // x: [slots, T, dim] in groups of group_size slots; slots of zeros are not run.
  TensorResult Check(const std::string& name,
                     const ExpectedTensor& x,
                     const ExpectedTensor& y,
                     const FamilyTolerance& tolerance) {
    TensorResult result{name, INFINITY, AllowedFor(tolerance, y.floats)};
    if (x.shape.size() != 3 || x.shape != y.shape || x.shape[2] != dim_) return result;
    const int64_t length = x.shape[1];
    std::vector<float> in, expected;
    std::vector<int32_t> positions;
    std::vector<int64_t> slots;
    std::vector<RowRouting> routing;
    for (int64_t slot = 0; slot < x.shape[0]; ++slot) {
      const auto first = x.floats.begin() + slot * length * dim_;
      if (std::all_of(first, first + length * dim_, [](float v) { return v == 0.0f; })) continue;
      slots.push_back(slot);
      in.insert(in.end(), first, first + length * dim_);
      const auto wanted = y.floats.begin() + slot * length * dim_;
      expected.insert(expected.end(), wanted, wanted + length * dim_);
      for (int32_t t = 0; t < length; ++t) {
        positions.push_back(t);
        routing.push_back({.cohort = static_cast<int32_t>(slot / spec_.group_size),
                           .slot = static_cast<int32_t>(slot % spec_.group_size)});
      }
    }
    if (positions.empty() || positions.size() > kMaxRows) return result;
    result.worst = ErrorOf(tolerance, Run(in, positions, routing), expected);
    real_slots_ = std::move(slots);
    if (positions.size() == static_cast<size_t>(length)) {  // one real row: a row without a cohort
      for (RowRouting& row : routing) row = {};
      result.worst =
          std::max(result.worst, ErrorOf(tolerance, Run(in, positions, routing), expected));
    }
    return result;
  }

  // "merge" or "emit" of the case that was checked last: [slots, T, experts], of the slots that
  // ran.
  TensorResult CheckWeights(const std::string& name,
                            const std::string& kind,
                            const ExpectedTensor& weights,
                            const FamilyTolerance& tolerance) {
    TensorResult result{name, INFINITY, AllowedFor(tolerance, weights.floats)};
    if (weights.shape.size() != 3) return result;
    const int64_t size = weights.shape[1] * weights.shape[2];
    std::vector<float> expected;
    for (const int64_t slot : real_slots_) {
      const auto first = weights.floats.begin() + slot * size;
      expected.insert(expected.end(), first, first + size);
    }
    const std::vector<float>& actual = seen_.of(kind);
    result.worst = ErrorOf(tolerance, actual, expected);
    return result;
  }

 private:
  static constexpr int32_t kMaxRows = 1'024;

  static absl::Status CopyWeights(const std::string& folder, const std::string& out);

  std::vector<float> Run(std::vector<float>& in,
                         const std::vector<int32_t>& positions,
                         const std::vector<RowRouting>& routing) {
    const auto count = static_cast<int32_t>(positions.size());
    const std::vector<KvSequence> sequences(positions.size());
    const std::vector<uint8_t> is_prompt(positions.size(), 1);
    const Batch batch{positions, positions, sequences, is_prompt, routing, {}};
    ForwardStats stats;
    stats.Reserve(count, 1, 0);
    stats.Reset(count);
    KvPlacements placements({}, count);
    ForwardContext context{.backend = *backend_,
                           .cache = *cache_,
                           .workspace = *workspace_,
                           .stats = stats,
                           .placements = placements,
                           .batch = batch,
                           .observer = &seen_};
    std::vector<float> out(in.size());
    const kernels::TensorView x = kernels::MatrixView(in.data(), count, dim_);
    const Rows rows{x, kernels::AllRows(count)};
    block_->Forward({.rows = rows,
                     .normed = x,
                     .out = kernels::MatrixView(out.data(), count, dim_),
                     .accumulate = false},
                    context);
    backend_->Synchronize();
    return out;
  }

  MixtureFfnSpec spec_;
  int64_t dim_ = 0;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<MixtureFfn> block_;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<KvCache> cache_;
  Weights seen_;
  std::vector<int64_t> real_slots_;
};

absl::Status LayerRun::CopyWeights(const std::string& folder, const std::string& out) {
  std::error_code error;
  std::filesystem::copy_file(folder + "/weights.safetensors", out + "/model.safetensors", error);
  if (!error) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(folder, "/weights.safetensors: ", error.message()));
}

}  // namespace

bool IsLayerFolder(const std::string& folder) {
  const absl::StatusOr<json> config = ReadJsonFile(folder + "/config.json", 1 << 20, JsonLimits());
  if (!config.ok()) return false;
  const absl::StatusOr<std::string> family = ReadString(*config, "family", "");
  const absl::StatusOr<std::string> kind = ReadString(*config, "kind", "");
  return family.ok() && kind.ok() && *family == "mot" && *kind == "layer";
}

absl::StatusOr<GoldenReport> CheckLayerGolden(const std::string& folder,
                                              const CheckOptions& options) {
  ASSIGN_OR_RETURN(const json config, ReadJsonFile(folder + "/config.json", 1 << 20, JsonLimits()));
  ASSIGN_OR_RETURN(const ExpectedTensors expected, ReadExpected(folder, "expected.safetensors"));
  LayerRun run;
  RETURN_IF_ERROR(run.Load(folder, config, options));
  GoldenReport report;
  report.family = "mot";
  report.layer_alone = true;
  const FamilyTolerance& tolerance = ToleranceOf(options.weights);
  for (const auto& [name, y] : expected) {
    if (!absl::EndsWith(name, ".y")) continue;
    const auto x = expected.find(name.substr(0, name.size() - 1) + "x");
    if (x == expected.end()) return absl::InvalidArgumentError(folder + ": a case without x");
    report.tensors.push_back(run.Check(name, x->second, y, tolerance));
    for (const char* kind : {"merge", "emit"}) {
      const std::string weights = name.substr(0, name.size() - 1) + kind;
      const auto stored = expected.find(weights);
      if (stored != expected.end())
        report.tensors.push_back(run.CheckWeights(weights, kind, stored->second, tolerance));
    }
  }
  return report;
}

}  // namespace sluice
