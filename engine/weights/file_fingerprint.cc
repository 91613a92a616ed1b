#include "engine/weights/file_fingerprint.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/status_macros.h"
#include "kernels/check.h"

namespace sluice {
namespace {

constexpr int64_t kPageBytes = 4096;
constexpr int64_t kMaxSampledBytes = int64_t{16} << 20;

absl::StatusOr<std::string> Fingerprint(const ModelFile& file,
                                        std::span<const FileRange> tensors,
                                        int64_t sample_bytes) {
  std::string sampled;
  for (const FileRange& tensor : tensors) {
    const int64_t bytes = std::min(tensor.bytes, sample_bytes);
    const size_t place = sampled.size();
    sampled.resize(place + static_cast<size_t>(bytes));
    RETURN_IF_ERROR(file.ReadAt(tensor.offset + (tensor.bytes - bytes) / 2,
                                std::as_writable_bytes(std::span(sampled).subspan(place))));
  }
  ASSIGN_OR_RETURN(const std::string digest, Sha256Hex(sampled));
  return absl::StrCat(file.size(), " bytes, ", file.modified_ns(), " ns, ", digest, "\n");
}

}  // namespace

absl::StatusOr<std::string> Sha256Hex(const std::string& text) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  if (EVP_Digest(text.data(), text.size(), digest.data(), &length, EVP_sha256(), nullptr) != 1)
    return absl::InternalError("SHA-256 failed");
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), length));
}

absl::StatusOr<std::string> FingerprintOf(std::span<const ModelFile> files,
                                          std::span<const std::vector<FileRange>> tensors) {
  SLUICE_CHECK(files.size() == tensors.size()) << files.size() << " " << tensors.size();
  size_t count = 1;
  for (const std::vector<FileRange>& ranges : tensors) count += ranges.size();
  const int64_t sample_bytes = std::min(kPageBytes, kMaxSampledBytes / static_cast<int64_t>(count));
  std::string text;
  for (size_t i = 0; i < files.size(); ++i) {
    ASSIGN_OR_RETURN(const std::string one, Fingerprint(files[i], tensors[i], sample_bytes));
    text += one;
  }
  return text;
}

}  // namespace sluice
