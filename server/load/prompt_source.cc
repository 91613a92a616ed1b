#include "server/load/prompt_source.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "server/load/arrivals.h"

namespace sluice::server {
namespace {

constexpr int64_t kMaxTextBytes = 64 << 20;
constexpr double kMinBytesPerToken = 0.25, kMaxBytesPerToken = 64.0;

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xc0u) == 0x80u; }

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const int64_t size = file ? static_cast<int64_t>(file.tellg()) : -1;
  if (size < 0) return absl::InvalidArgumentError(absl::StrCat("--text: cannot read ", path));
  if (size == 0 || size > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("--text: ", path, " must hold between 1 byte and 64 MiB"));
  }
  std::string text(static_cast<size_t>(size), '\0');
  file.seekg(0);
  if (!file.read(text.data(), size)) {
    return absl::InvalidArgumentError(absl::StrCat("--text: cannot read ", path));
  }
  if (!IsValidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat("--text: ", path, " is not UTF-8"));
  }
  return text;
}

// `text` was cut from UTF-8 at a byte: a last character may have lost its end.
void RemovePartialCharacter(std::string& text) {
  size_t lead = text.size();
  while (lead > 0 && IsContinuation(text[lead - 1])) --lead;
  if (lead == 0) return text.clear();
  if (!IsValidUtf8(std::string_view(text).substr(lead - 1))) text.resize(lead - 1);
}

}  // namespace

PromptSource PromptSource::TokenIds(int32_t tokens, int32_t vocab_size, uint64_t seed) {
  PromptSource source;
  source.tokens_ = tokens;
  source.vocab_size_ = vocab_size;
  source.seed_ = seed;
  return source;
}

absl::StatusOr<PromptSource> PromptSource::Text(const std::string& file,
                                                int32_t tokens,
                                                uint64_t seed) {
  absl::StatusOr<std::string> text = ReadText(file);
  if (!text.ok()) return std::move(text).status();
  PromptSource source = TokenIds(tokens, 0, seed);
  source.text_ = *std::move(text);
  return source;
}

std::string PromptSource::Json(int64_t index) const {
  // Two rounds, so that seeds and indices next to each other have nothing in common.
  SplitMix64 random(SplitMix64(seed_).Next() + static_cast<uint64_t>(index));
  random = SplitMix64(random.Next());
  std::string json;
  if (!is_text()) {
    for (int32_t i = 0; i < tokens_; ++i) {
      absl::StrAppend(&json, i == 0 ? "[" : ",",
                      random.Next() % static_cast<uint64_t>(vocab_size_));
    }
    return json + "]";
  }
  const auto bytes = static_cast<size_t>(std::ceil(tokens_ * bytes_per_token_));
  size_t at = random.Next() % text_.size();
  while (at < text_.size() && IsContinuation(text_[at])) ++at;
  at %= text_.size();
  std::string prompt;
  while (prompt.size() < bytes) {
    prompt.append(text_, at, bytes - prompt.size());
    at = 0;
  }
  RemovePartialCharacter(prompt);
  return nlohmann::json(std::move(prompt)).dump();
}

void PromptSource::Calibrate(int64_t counted) {
  if (!is_text() || counted <= 0) return;
  bytes_per_token_ = std::clamp(bytes_per_token_ * tokens_ / static_cast<double>(counted),
                                kMinBytesPerToken, kMaxBytesPerToken);
}

}  // namespace sluice::server
