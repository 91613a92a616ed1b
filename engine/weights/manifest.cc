#include "engine/weights/manifest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/weights/model_file.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr char kManifestFile[] = "manifest.json";
constexpr int64_t kMaxManifestBytes = int64_t{1} << 20;

struct DigestDeleter {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

absl::StatusOr<std::string> Sha256(const ModelFile& file) {
  const std::unique_ptr<EVP_MD_CTX, DigestDeleter> context(EVP_MD_CTX_new());
  if (context == nullptr || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1) {
    return absl::InternalError("SHA-256 cannot be started");
  }
  std::vector<std::byte> block(size_t{1} << 20);
  for (int64_t offset = 0; offset < file.size(); offset += static_cast<int64_t>(block.size())) {
    const auto bytes =
        static_cast<size_t>(std::min(static_cast<int64_t>(block.size()), file.size() - offset));
    RETURN_IF_ERROR(file.ReadAt(offset, std::span(block).first(bytes)));
    if (EVP_DigestUpdate(context.get(), block.data(), bytes) != 1) {
      return absl::InternalError("SHA-256 failed");
    }
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  if (EVP_DigestFinal_ex(context.get(), digest.data(), &length) != 1) {
    return absl::InternalError("SHA-256 failed");
  }
  const auto* first = reinterpret_cast<const char*>(digest.data());
  return absl::BytesToHexString(absl::string_view(first, length));
}

absl::Status VerifyFile(const std::string& directory, const std::string& name, const json& digest) {
  const auto* expected = digest.get_ptr<const json::string_t*>();
  if (!IsPlainFileName(name) || expected == nullptr || expected->size() != 64) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, "/", kManifestFile, ": '", name,
                     "' must be a plain file name with 64 hexadecimal digits"));
  }
  ASSIGN_OR_RETURN(const ModelFile file, ModelFile::Open(directory, name));
  ASSIGN_OR_RETURN(const std::string actual, Sha256(file));
  if (actual == absl::AsciiStrToLower(*expected)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(file.path(), ": SHA-256 differs from ", kManifestFile));
}

bool DecidesAnswers(const std::string& name) {
  if (name == kManifestFile) return false;
  return absl::EndsWith(name, ".safetensors") || absl::EndsWith(name, ".gguf") ||
         absl::EndsWith(name, ".json") || absl::EndsWith(name, ".model") ||
         absl::EndsWith(name, ".jinja");
}

absl::Status CheckAllListed(const std::string& directory, const json& digests) {
  std::error_code error;
  auto it = std::filesystem::directory_iterator(directory, error);
  for (const auto end = std::filesystem::directory_iterator(); !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!DecidesAnswers(name) || digests.contains(name)) continue;
    return absl::DataLossError(
        absl::StrCat(directory, "/", name, ": not listed in ", kManifestFile));
  }
  if (error) return absl::DataLossError(absl::StrCat(directory, ": cannot be listed"));
  return absl::OkStatus();
}

}  // namespace

absl::Status VerifyManifest(const std::string& model_directory, bool required) {
  absl::StatusOr<ModelFile> file = ModelFile::Open(model_directory, kManifestFile);
  if (absl::IsNotFound(file.status()) && !required) return absl::OkStatus();
  RETURN_IF_ERROR(file.status());
  ASSIGN_OR_RETURN(const std::string text, file->ReadText(kMaxManifestBytes));
  absl::StatusOr<json> manifest = ParseJson(text, JsonLimits{.max_depth = 4, .max_nodes = 10'000});
  if (!manifest.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file->path(), ": ", manifest.status().message()));
  }
  const json* digests = FindMember(*manifest, "sha256");
  if (digests == nullptr || !digests->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(file->path(), ": 'sha256' must be an object"));
  }
  for (const auto& [name, digest] : digests->items()) {
    RETURN_IF_ERROR(VerifyFile(model_directory, name, digest));
  }
  return CheckAllListed(model_directory, *digests);
}

}  // namespace sluice
