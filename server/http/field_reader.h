// Typed reading of request fields on top of engine/json_reader.h, with the codes of reliability.md
// section 5: `wrong_type`, `integer_out_of_range`, `number_out_of_range`. A field that is absent or
// null leaves its variable as it is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/json_reader.h"

namespace sluice::server {

// The body of a POST as an object. Codes `invalid_json`, `not_an_object`, `json_too_deep`,
// `invalid_utf8`, `duplicate_key`, `json_too_large`.
absl::StatusOr<nlohmann::json> ParseBodyObject(std::string_view body);

class FieldReader {
 public:
  // `prefix` goes before the key in error parameters: "routing.". Both outlive the reader.
  explicit FieldReader(const nlohmann::json& object, std::string_view prefix = "")
      : object_(object), prefix_(prefix) {}

  absl::Status Read(const char* key, int32_t& out) const;
  absl::Status Read(const char* key, int64_t& out) const;
  absl::Status Read(const char* key, std::optional<int32_t>& out) const;
  absl::Status Read(const char* key, std::optional<int64_t>& out) const;
  absl::Status Read(const char* key, std::optional<double>& out) const;
  absl::Status Read(const char* key, float& out) const;
  absl::Status Read(const char* key, bool& out) const;
  absl::Status Read(const char* key, std::string& out) const;
  // A list of integers; values outside int32 are `token_out_of_vocab`.
  absl::Status ReadTokens(const char* key, size_t max_size, std::vector<int32_t>& out) const;
  // A list of strings, or one string where `or_one`.
  absl::Status ReadStrings(const char* key,
                           size_t max_size,
                           bool or_one,
                           std::vector<std::string>& out) const;

  // Null when absent or JSON null; `wrong_type` when it is no object.
  absl::StatusOr<const nlohmann::json*> Object(const char* key) const;
  const nlohmann::json* Find(const char* key) const { return FindMember(object_, key); }
  absl::Status WrongType(const char* key, std::string_view expected) const;

 private:
  std::string Param(const char* key) const { return std::string(prefix_).append(key); }

  const nlohmann::json& object_;
  std::string_view prefix_;
};

// A token id out of a JSON value. `wrong_type` or `token_out_of_vocab` naming `param`.
absl::StatusOr<int32_t> TokenFrom(const nlohmann::json& value, std::string_view param);

}  // namespace sluice::server
