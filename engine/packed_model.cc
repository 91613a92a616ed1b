#include "engine/packed_model.h"

#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/log.h"
#include "engine/model/model_spec_json.h"
#include "engine/model_files.h"
#include "engine/status_macros.h"
#include "engine/weights/packed_cache.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

const char* WeightsName(const EngineConfig& config) {
  return config.weights.has_value() ? kernels::Name(*config.weights) : "auto";
}

// Everything that decides the packed bytes, beside the version of the format.
absl::StatusOr<PackedCacheIdentity> IdentityOf(const EngineConfig& config,
                                               const ModelSpec& spec,
                                               const WeightStore& weights,
                                               const kernels::Backend& backend) {
  PackedCacheIdentity identity;
  ASSIGN_OR_RETURN(std::string files, weights.Fingerprint());
  identity.push_back({"model files", std::move(files)});
  identity.push_back({"model configuration", SpecToJson(spec).dump()});
  identity.push_back({"--weights", WeightsName(config)});
  std::string kernels = backend.name();
  for (const kernels::KernelChoice& choice : backend.Kernels())
    absl::StrAppend(&kernels, " ", choice.op, "=", choice.kernel);
  identity.push_back({"kernels", std::move(kernels)});
  return identity;
}

absl::Status CannotUse(const EngineConfig& config, const absl::Status& why) {
  return absl::PermissionDeniedError(
      absl::StrCat("--packed-cache: ", config.packed_cache, ": cannot be written (", why.message(),
                   "); name a directory that this user may write to"));
}

// The cache of one model in one directory.
class PackedModelBuilder {
 public:
  PackedModelBuilder(const EngineConfig& config,
                     const ModelSpec& spec,
                     WeightStore& weights,
                     kernels::Backend& backend,
                     BuildOptions options)
      : config_(config),
        spec_(spec),
        weights_(weights),
        backend_(backend),
        options_(std::move(options)),
        name_(absl::StrCat(
            ModelNameOfPath(config.model_directory), ".", WeightsName(config), ".packed")),
        path_(absl::StrCat(config.packed_cache, "/", name_)) {}

  absl::StatusOr<PackedModel> Build() {
    ASSIGN_OR_RETURN(identity_, IdentityOf(config_, spec_, weights_, backend_));
    const absl::Status refused = Read();
    if (result_.model != nullptr) return std::move(result_);
    if (!absl::IsDataLoss(refused) && !absl::IsFailedPrecondition(refused) &&
        !absl::IsNotFound(refused) && !absl::IsInvalidArgument(refused)) {
      return refused;  // of the model, not of the file
    }
    if (!absl::IsNotFound(refused)) {
      Log(LogLevel::kWarning, "packed cache refused",
          {{"file", path_}, {"reason", std::string(refused.message())}});
    }
    RETURN_IF_ERROR(Make());
    return std::move(result_);
  }

 private:
  absl::Status Read() {
    const Clock::time_point start = Clock::now();
    ASSIGN_OR_RETURN(const std::unique_ptr<PackedCacheReader> reader,
                     PackedCacheReader::Open(config_.packed_cache, name_, identity_));
    options_.packed = {.reader = reader.get()};
    ASSIGN_OR_RETURN(result_.model, BuildModel(spec_, weights_, backend_, options_));
    result_.cache_line =
        absl::StrFormat("%s: %.1f MiB read and verified in %.2f s", path_,
                        static_cast<double>(reader->file_bytes()) / (1 << 20), SecondsSince(start));
    return absl::OkStatus();
  }

  absl::Status Make() {
    absl::StatusOr<std::unique_ptr<PackedCacheWriter>> writer =
        PackedCacheWriter::Create(config_.packed_cache, name_);
    if (absl::IsPermissionDenied(writer.status())) return CannotUse(config_, writer.status());
    options_.packed = {.writer = writer.ok() ? writer->get() : nullptr};
    const Clock::time_point start = Clock::now();
    ASSIGN_OR_RETURN(result_.model, BuildModel(spec_, weights_, backend_, options_));
    const double packed_seconds = SecondsSince(start);
    const absl::StatusOr<int64_t> bytes =
        writer.ok() ? (*writer)->Finish(identity_) : absl::StatusOr<int64_t>(writer.status());
    if (!bytes.ok()) {
      Log(LogLevel::kWarning, "packed cache not written",
          {{"file", path_}, {"reason", std::string(bytes.status().message())}});
      result_.cache_line = absl::StrCat(path_, ": not written: ", bytes.status().message());
      return absl::OkStatus();
    }
    result_.cache_line = absl::StrFormat(
        "%s: packed in %.2f s, %.1f MiB written for the next start, %.2f s until on disk", path_,
        packed_seconds, static_cast<double>(*bytes) / (1 << 20), SecondsSince(start));
    return absl::OkStatus();
  }

  const EngineConfig& config_;
  const ModelSpec& spec_;
  WeightStore& weights_;
  kernels::Backend& backend_;
  BuildOptions options_;
  const std::string name_;
  const std::string path_;
  PackedCacheIdentity identity_;
  PackedModel result_;
};

}  // namespace

absl::StatusOr<PackedModel> BuildPackedModel(const EngineConfig& config,
                                             const ModelSpec& spec,
                                             WeightStore& weights,
                                             kernels::Backend& backend,
                                             BuildOptions options) {
  if (config.packed_cache.empty()) {
    ASSIGN_OR_RETURN(std::unique_ptr<Model> model, BuildModel(spec, weights, backend, options));
    return PackedModel{std::move(model), ""};
  }
  std::error_code error;
  if (!std::filesystem::is_directory(config.packed_cache, error)) {
    return absl::PermissionDeniedError(absl::StrCat("--packed-cache: ", config.packed_cache,
                                                    ": no such directory; make it first"));
  }
  return PackedModelBuilder(config, spec, weights, backend, std::move(options)).Build();
}

}  // namespace sluice
