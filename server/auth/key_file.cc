#include <openssl/sha.h>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/auth/authenticator.h"

namespace sluice::server {
namespace {

constexpr size_t kMaxKeys = 10'000;
constexpr size_t kMaxIdBytes = 64;

bool IsKeyId(std::string_view id) {
  if (id.empty() || id.size() > kMaxIdBytes) return false;
  for (const char c : id) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.') {
      return false;
    }
  }
  return true;
}

bool ParseDigest(std::string_view hex, KeyDigest& digest) {
  if (hex.size() != 2 * digest.size()) return false;
  for (const char c : hex) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return false;
  }
  const std::string bytes = absl::HexStringToBytes({hex.data(), hex.size()});
  for (size_t i = 0; i < digest.size(); ++i) digest[i] = static_cast<unsigned char>(bytes[i]);
  return true;
}

bool ParseLine(const std::string& line, ApiKey& key) {
  const std::vector<std::string> parts = absl::StrSplit(line, ':');
  if (parts.size() != 4 || !IsKeyId(parts[0]) || !ParseDigest(parts[1], key.digest)) return false;
  key.id = parts[0];
  if (parts[2].empty()) return false;
  if (parts[2] != "*") key.models = absl::StrSplit(parts[2], ',', absl::SkipEmpty());
  if (parts[3] == "*") return true;
  return absl::SimpleAtoi(parts[3], &key.tokens_per_minute) && key.tokens_per_minute > 0;
}

}  // namespace

absl::StatusOr<std::vector<ApiKey>> ParseKeyFile(std::string_view text) {
  std::vector<ApiKey> keys;
  int line_number = 0;
  const absl::string_view lines(text.data(), text.size());
  for (const absl::string_view raw : absl::StrSplit(lines, '\n')) {
    ++line_number;
    const std::string line(absl::StripAsciiWhitespace(raw));
    if (line.empty() || line.front() == '#') continue;
    ApiKey key;
    if (keys.size() == kMaxKeys || !ParseLine(line, key)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "key file line ", line_number, ": expected id:sha256hex:models:tokens_per_minute"));
    }
    for (const ApiKey& other : keys) {
      if (other.id == key.id) {
        return absl::InvalidArgumentError(
            absl::StrCat("key file line ", line_number, ": this id was used before"));
      }
    }
    keys.push_back(std::move(key));
  }
  if (keys.empty()) return absl::InvalidArgumentError("the key file has no keys");
  return keys;
}

KeyDigest DigestOf(std::string_view key) {
  KeyDigest digest{};
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

}  // namespace sluice::server
