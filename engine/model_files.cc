#include "engine/model_files.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "engine/architectures/architectures.h"
#include "engine/architectures/generation_config.h"
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

// The user named this file, so a link may lead anywhere (Hugging Face's cache has links only).
// ModelFile's rule against links is for names that stand in files.
absl::StatusOr<ModelFiles> OpenGguf(const std::string& path, bool require_manifest) {
  const auto directory_of = [](const std::filesystem::path& file) {
    return file.has_parent_path() ? file.parent_path().string() : ".";
  };
  std::error_code error;
  std::filesystem::path target = path;
  if (std::filesystem::is_symlink(path, error)) {
    // One beside the link counts too: a link must not lead around it.
    RETURN_IF_ERROR(VerifyManifest(directory_of(path), /*required=*/false));
    target = std::filesystem::canonical(path, error);
  }
  if (error) return absl::NotFoundError(absl::StrCat(path, ": ", error.message()));
  RETURN_IF_ERROR(VerifyManifest(directory_of(target), require_manifest));
  ASSIGN_OR_RETURN(ModelFile file,
                   ModelFile::Open(directory_of(target), target.filename().string()));
  const int64_t bytes = file.size();
  ASSIGN_OR_RETURN(GgufModel model, LoadGgufModel(std::move(file)));
  const int64_t tokens = model.spec.decoder().embedding.vocab_size;
  return ModelFiles{.weights = std::move(model.weights),
                    .spec = std::move(model.spec),
                    .tokenizer = WithPath(path, LoadGgufTokenizer(model.metadata, tokens)),
                    .chat_template = WithPath(path, LoadGgufChatTemplate(model.metadata, tokens)),
                    .sampling_defaults = SamplingDefaults(),
                    .weight_file_bytes = bytes};
}

}  // namespace

absl::StatusOr<ModelFiles> ModelFiles::Open(const std::string& path, bool require_manifest) {
  std::error_code ignored;  // opening it says what is wrong
  if (path.ends_with(kGgufSuffix) && !std::filesystem::is_directory(path, ignored)) {
    return OpenGguf(path, require_manifest);
  }
  RETURN_IF_ERROR(VerifyManifest(path, require_manifest));
  ASSIGN_OR_RETURN(std::unique_ptr<WeightStore> weights, WeightStore::Open(path));
  ASSIGN_OR_RETURN(ModelSpec spec, LoadModelSpec(path, *weights));
  const int64_t bytes = weights->total_bytes();
  return ModelFiles{.weights = std::move(weights),
                    .spec = std::move(spec),
                    .tokenizer = Tokenizer::Load(path),
                    .chat_template = ChatTemplate::Load(path),
                    .sampling_defaults = ReadSamplingDefaults(path),
                    .weight_file_bytes = bytes};
}

std::string ModelNameOfPath(const std::string& path) {
  const auto normal = std::filesystem::path(path).lexically_normal();
  const auto name = normal.has_filename() ? normal.filename() : normal.parent_path().filename();
  return name.extension() == kGgufSuffix ? name.stem().string() : name.string();
}

}  // namespace sluice
