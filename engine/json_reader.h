// The only place that turns outside bytes (requests, config.json, tokenizer.json, safetensors
// headers) into JSON values. A SAX pass caps depth and node count, and refuses duplicate keys and
// invalid UTF-8, before a DOM exists; the accessors check type and range. Never call json::get<T>()
// on outside data: it wraps, truncates and is undefined for large floats. A DOM is moved, never
// copied or compared.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sluice {

struct JsonLimits {
  int max_depth = 64;
  int64_t max_nodes = 200'000;
};

enum class JsonFault { kNone, kSyntax, kTooDeep, kTooManyNodes, kDuplicateKey, kInvalidUtf8 };

// Parses `text`. On failure returns InvalidArgument with a message from a closed set (never the
// input) and, if `fault` is given, the kind of failure.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text,
                                         const JsonLimits& limits,
                                         JsonFault* fault = nullptr);

// Reads and parses a whole file of at most `max_bytes`. Adds the path to error messages.
// NotFound when it does not exist, InvalidArgument when it is no regular file, too large, or bad
// JSON.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path,
                                            int64_t max_bytes,
                                            const JsonLimits& limits);

// Checked accessors: each returns InvalidArgument naming the key when the value has the wrong type
// or is out of [lo, hi]. A missing key is InvalidArgument too, unless a default is given. Integers
// accept only JSON integers (1.0, true and "1" are refused).
absl::StatusOr<int64_t> ReadInt(const nlohmann::json& object,
                                const char* key,
                                int64_t lo,
                                int64_t hi,
                                std::optional<int64_t> fallback = std::nullopt);
absl::StatusOr<double> ReadNumber(const nlohmann::json& object,
                                  const char* key,
                                  double lo,
                                  double hi,
                                  std::optional<double> fallback = std::nullopt);
absl::StatusOr<bool> ReadBool(const nlohmann::json& object,
                              const char* key,
                              std::optional<bool> fallback = std::nullopt);
absl::StatusOr<std::string> ReadString(const nlohmann::json& object,
                                       const char* key,
                                       std::optional<std::string> fallback = std::nullopt);
absl::StatusOr<std::vector<int64_t>> ReadIntList(
    const nlohmann::json& object, const char* key, int64_t lo, int64_t hi, size_t max_size);

// The member `key` of `object`, or nullptr when it is absent or JSON null.
const nlohmann::json* FindMember(const nlohmann::json& object, const char* key);

// True when `text` is well-formed UTF-8 (no overlong forms, no surrogates).
bool IsValidUtf8(std::string_view text);

}  // namespace sluice
