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
#include "engine/version.h"
#include "engine/weights/file_fingerprint.h"
#include "engine/weights/packed_cache.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double Mebibytes(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

absl::Status CannotUse(const EngineConfig& config, absl::string_view why) {
  return absl::PermissionDeniedError(
      absl::StrCat("--packed-cache: ", config.packed_cache, ": ", why));
}

absl::Status CheckDirectory(const EngineConfig& config) {
  std::error_code error;
  const std::filesystem::file_status found = std::filesystem::status(config.packed_cache, error);
  if (std::filesystem::is_directory(found)) return absl::OkStatus();
  if (!std::filesystem::status_known(found)) return CannotUse(config, error.message());
  return CannotUse(config, std::filesystem::exists(found) ? "is not a directory"
                                                          : "no such directory; make it first");
}

// What packs the weights.
std::string PackerOf(const kernels::Backend& backend) {
  std::string packer = backend.name();
  for (const kernels::KernelChoice& choice : backend.Kernels())
    absl::StrAppend(&packer, " ", choice.op, "=", choice.kernel);
  return packer;
}

// Models of one name from different places, and machines that pack differently, have files of their
// own in a shared directory.
absl::StatusOr<std::string> FileName(const std::string& model_path,
                                     kernels::WeightFormat format,
                                     const std::string& packer) {
  constexpr size_t kNameBytes = 64;
  std::error_code error;
  const std::filesystem::path canonical = std::filesystem::canonical(model_path, error);
  if (error) return absl::NotFoundError(absl::StrCat(model_path, ": ", error.message()));
  ASSIGN_OR_RETURN(const std::string digest,
                   Sha256Hex(absl::StrCat(canonical.string(), "\n", packer)));
  std::string name = ModelNameOfPath(std::filesystem::absolute(model_path, error).string());
  if (name.size() > kNameBytes) {
    size_t end = kNameBytes;  // of a character
    while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xC0) == 0x80) --end;
    name.resize(end);
  }
  return absl::StrCat(name, ".", kernels::Name(format), ".",
                      digest.substr(0, kPackedCacheNameDigits), kPackedCacheSuffix);
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
        options_(std::move(options)) {}

  absl::StatusOr<PackedModel> Build() {
    RETURN_IF_ERROR(CheckDirectory(config_));
    RETURN_IF_ERROR(Identify());
    const absl::StatusOr<std::unique_ptr<PackedCacheReader>> reader =
        PackedCacheReader::Open(config_.packed_cache, name_, identity_);
    absl::Status refused = reader.status();
    if (reader.ok()) {
      refused = Read(**reader);
      if (!absl::IsDataLoss(refused)) {  // of the model then, not of the file
        RETURN_IF_ERROR(refused);
        return std::move(result_);
      }
    }
    if (!absl::IsNotFound(refused)) {
      Log(LogLevel::kWarning, "packed cache refused",
          {{"file", path_}, {"reason", std::string(refused.message())}});
    }
    RETURN_IF_ERROR(Make(absl::IsNotFound(refused)));
    return std::move(result_);
  }

 private:
  // Everything that decides the packed bytes.
  absl::Status Identify() {
    ASSIGN_OR_RETURN(const kernels::WeightFormat format,
                     FormatOfProjections(spec_, weights_, options_.weight_format));
    const std::string packer = PackerOf(backend_);
    ASSIGN_OR_RETURN(name_, FileName(config_.model_directory, format, packer));
    path_ = absl::StrCat(config_.packed_cache, "/", name_);
    ASSIGN_OR_RETURN(std::string files, weights_.Fingerprint());
    identity_ = {{"server version", absl::StrCat(Version(), " ", kPackedCacheVersion)},
                 {"model files", std::move(files)},
                 {"model configuration", SpecToJson(spec_).dump()},
                 {"--weights", kernels::Name(format)},
                 {"kernels", packer}};
    return absl::OkStatus();
  }

  absl::Status Read(const PackedCacheReader& reader) {
    const Clock::time_point start = Clock::now();
    options_.packed = {.reader = &reader};
    ASSIGN_OR_RETURN(result_.model, BuildModel(spec_, weights_, backend_, options_));
    result_.cache_line = absl::StrFormat("%s: %.1f MiB read and verified in %.2f s", path_,
                                         Mebibytes(reader.file_bytes()), SecondsSince(start));
    return absl::OkStatus();
  }

  // `is_first`: there is no file yet. One that does not fit, in a directory that is only read, must
  // not keep the model from being served.
  absl::Status Make(bool is_first) {
    const absl::StatusOr<std::unique_ptr<PackedCacheWriter>> writer =
        PackedCacheWriter::Create(config_.packed_cache, name_);
    if (is_first && absl::IsPermissionDenied(writer.status())) {
      return CannotUse(config_, absl::StrCat("cannot be written (", writer.status().message(),
                                             "); name a directory that this user may write to"));
    }
    const Clock::time_point start = Clock::now();
    options_.packed = {.writer = writer.ok() ? writer->get() : nullptr};
    ASSIGN_OR_RETURN(result_.model, BuildModel(spec_, weights_, backend_, options_));
    const absl::StatusOr<int64_t> bytes =
        writer.ok() ? (*writer)->Finish(identity_) : absl::StatusOr<int64_t>(writer.status());
    if (!bytes.ok()) {
      Log(LogLevel::kWarning, "packed cache not written",
          {{"file", path_}, {"reason", std::string(bytes.status().message())}});
      result_.cache_line = absl::StrCat(path_, ": not written: ", bytes.status().message());
      return absl::OkStatus();
    }
    result_.cache_line =
        absl::StrFormat("%s: %.1f MiB packed and written for the next start in %.2f s", path_,
                        Mebibytes(*bytes), SecondsSince(start));
    return absl::OkStatus();
  }

  const EngineConfig& config_;
  const ModelSpec& spec_;
  WeightStore& weights_;
  kernels::Backend& backend_;
  BuildOptions options_;
  std::string name_, path_;
  PackedCacheIdentity identity_;
  PackedModel result_;
};

}  // namespace

absl::StatusOr<PackedModel> BuildPackedModel(const EngineConfig& config,
                                             const ModelSpec& spec,
                                             WeightStore& weights,
                                             kernels::Backend& backend,
                                             BuildOptions options) {
  if (!config.packed_cache.empty())
    return PackedModelBuilder(config, spec, weights, backend, std::move(options)).Build();
  ASSIGN_OR_RETURN(std::unique_ptr<Model> model, BuildModel(spec, weights, backend, options));
  return PackedModel{std::move(model), ""};
}

}  // namespace sluice
