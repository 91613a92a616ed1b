#include "engine/weights/file_fingerprint.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <span>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

constexpr int64_t kSamples = 256;
constexpr int64_t kSampleBytes = 4096;

}  // namespace

absl::StatusOr<std::string> Sha256Hex(const std::string& text) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  if (EVP_Digest(text.data(), text.size(), digest.data(), &length, EVP_sha256(), nullptr) != 1)
    return absl::InternalError("SHA-256 failed");
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), length));
}

absl::StatusOr<std::string> FileFingerprint(const ModelFile& file) {
  const bool whole = file.size() <= kSamples * kSampleBytes;
  std::string sampled(static_cast<size_t>(whole ? file.size() : kSamples * kSampleBytes), '\0');
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span<char>(sampled));
  if (whole) {
    RETURN_IF_ERROR(file.ReadAt(0, bytes));
  } else {
    const double step = static_cast<double>(file.size() - kSampleBytes) / (kSamples - 1);
    for (int64_t i = 0; i < kSamples; ++i) {
      const auto offset = static_cast<int64_t>(step * static_cast<double>(i));
      const auto place = static_cast<size_t>(i * kSampleBytes);
      RETURN_IF_ERROR(file.ReadAt(std::min(offset, file.size() - kSampleBytes),
                                  bytes.subspan(place, static_cast<size_t>(kSampleBytes))));
    }
  }
  ASSIGN_OR_RETURN(const std::string digest, Sha256Hex(sampled));
  return absl::StrCat(file.size(), " bytes, ", file.modified_ns(), " ns, ", digest);
}

}  // namespace sluice
