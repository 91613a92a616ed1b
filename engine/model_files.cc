#include "engine/model_files.h"

#include <filesystem>
#include <utility>

#include "engine/architectures/architectures.h"
#include "engine/architectures/gguf_model.h"
#include "engine/status_macros.h"
#include "engine/text/gguf_tokenizer.h"
#include "engine/weights/manifest.h"
#include "engine/weights/model_file.h"

namespace sluice {
namespace {

constexpr char kGgufSuffix[] = ".gguf";

template <typename T>
absl::StatusOr<T> WithPath(const std::string& path, absl::StatusOr<T> value) {
  if (value.ok()) return value;
  return absl::Status(value.status().code(), absl::StrCat(path, ": ", value.status().message()));
}

absl::StatusOr<ModelFiles> OpenGguf(const std::filesystem::path& path, bool require_manifest) {
  const std::string directory = path.has_parent_path() ? path.parent_path().string() : ".";
  RETURN_IF_ERROR(VerifyManifest(directory, require_manifest));
  ASSIGN_OR_RETURN(ModelFile file, ModelFile::Open(directory, path.filename().string()));
  const int64_t bytes = file.size();
  ASSIGN_OR_RETURN(GgufModel model, LoadGgufModel(std::move(file)));
  return ModelFiles{std::move(model.weights), std::move(model.spec),
                    WithPath(path.string(), LoadGgufTokenizer(model.metadata)),
                    WithPath(path.string(), LoadGgufChatTemplate(model.metadata)), bytes};
}

}  // namespace

absl::StatusOr<ModelFiles> ModelFiles::Open(const std::string& path, bool require_manifest) {
  if (path.ends_with(kGgufSuffix) && !std::filesystem::is_directory(path)) {
    return OpenGguf(path, require_manifest);
  }
  RETURN_IF_ERROR(VerifyManifest(path, require_manifest));
  ASSIGN_OR_RETURN(std::unique_ptr<WeightStore> weights, WeightStore::Open(path));
  ASSIGN_OR_RETURN(ModelSpec spec, LoadModelSpec(path, *weights));
  const int64_t bytes = weights->total_bytes();
  return ModelFiles{std::move(weights), std::move(spec), Tokenizer::Load(path),
                    ChatTemplate::Load(path), bytes};
}

std::string ModelNameOfPath(const std::string& path) {
  const auto normal = std::filesystem::path(path).lexically_normal();
  const auto name = normal.has_filename() ? normal.filename() : normal.parent_path().filename();
  return name.extension() == kGgufSuffix ? name.stem().string() : name.string();
}

}  // namespace sluice
