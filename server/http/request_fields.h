// Every field a generation request may have, in one table: it decides what is known, what is
// refused, and it writes the request schemas of /openapi.json. Not for ranges:
// server/request_validation.h.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace sluice::server {

enum class FieldUse : uint8_t {
  kHonoured,
  kAccepted,     // known and without effect here
  kUnsupported,  // 400 `unsupported_parameter` unless null, false or empty
};

inline constexpr uint8_t kInCompletions = 1;
inline constexpr uint8_t kInChat = 2;
inline constexpr uint8_t kInBoth = 3;
inline constexpr uint8_t kInEmbeddings = 4;

struct RequestField {
  std::string_view name;
  uint8_t apis;
  FieldUse use;
  std::string_view type;  // JSON schema type; several are separated by '|'
  std::string_view description;
};

std::span<const RequestField> RequestFields();

// Checks the names in `body`. InvalidArgument `unsupported_parameter` for fields we cannot honour,
// `unknown_parameter` for unknown ones when `strict`; otherwise calls `count_unknown` for each of
// those.
absl::Status CheckFieldNames(const nlohmann::json& body,
                             uint8_t api,
                             bool strict,
                             const std::function<void()>& count_unknown);

}  // namespace sluice::server
