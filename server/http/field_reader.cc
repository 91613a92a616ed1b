#include "server/http/field_reader.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"

namespace sluice::server {
namespace {

using nlohmann::json;

constexpr int64_t kMinInt32 = std::numeric_limits<int32_t>::min();
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr double kMaxFloat = std::numeric_limits<float>::max();
// Deeper nesting is refused; an 8 MiB body with more values than this is no request.
constexpr JsonLimits kBodyLimits = {.max_depth = 64, .max_nodes = 200'000};

absl::Status Recode(const absl::Status& status,
                    std::string_view range_code,
                    const std::string& param) {
  if (status.ok()) return status;
  const bool out_of_range = absl::IsOutOfRange(status);
  return BadRequest(
      out_of_range ? range_code : "wrong_type", param,
      out_of_range ? "this field's value is out of range" : "this field has the wrong type");
}

std::string_view CodeOf(JsonFault fault) {
  switch (fault) {
    case JsonFault::kTooDeep:
      return "json_too_deep";
    case JsonFault::kTooManyNodes:
      return "json_too_large";
    case JsonFault::kDuplicateKey:
      return "duplicate_key";
    case JsonFault::kInvalidUtf8:
      return "invalid_utf8";
    case JsonFault::kNone:
    case JsonFault::kSyntax:
      break;
  }
  return "invalid_json";
}

std::string_view MessageOf(JsonFault fault) {
  switch (fault) {
    case JsonFault::kTooDeep:
      return "the JSON body is nested too deeply";
    case JsonFault::kTooManyNodes:
      return "the JSON body has too many values";
    case JsonFault::kDuplicateKey:
      return "the JSON body repeats a key";
    case JsonFault::kInvalidUtf8:
      return "the body is not valid UTF-8";
    case JsonFault::kNone:
    case JsonFault::kSyntax:
      break;
  }
  return "the body is not valid JSON";
}

}  // namespace

absl::StatusOr<json> ParseBodyObject(std::string_view body) {
  JsonFault fault = JsonFault::kNone;
  absl::StatusOr<json> value = ParseJson(body, kBodyLimits, &fault);
  if (!value.ok()) return BadRequest(CodeOf(fault), "", MessageOf(fault));
  if (!value->is_object()) {
    return BadRequest("not_an_object", "", "the JSON body must be an object");
  }
  return value;
}

absl::Status FieldReader::Read(const char* key, int64_t& out) const {
  const auto value = ReadInt(object_, key, std::numeric_limits<int64_t>::min(),
                             std::numeric_limits<int64_t>::max(), out);
  RETURN_IF_ERROR(Recode(value.status(), "integer_out_of_range", Param(key)));
  out = *value;
  return absl::OkStatus();
}

absl::Status FieldReader::Read(const char* key, int32_t& out) const {
  const auto value = ReadInt(object_, key, kMinInt32, kMaxInt32, out);
  RETURN_IF_ERROR(Recode(value.status(), "integer_out_of_range", Param(key)));
  out = static_cast<int32_t>(*value);
  return absl::OkStatus();
}

absl::Status FieldReader::Read(const char* key, std::optional<int32_t>& out) const {
  if (Find(key) == nullptr) return absl::OkStatus();
  int32_t value = 0;
  RETURN_IF_ERROR(Read(key, value));
  out = value;
  return absl::OkStatus();
}

absl::Status FieldReader::Read(const char* key, std::optional<int64_t>& out) const {
  if (Find(key) == nullptr) return absl::OkStatus();
  int64_t value = 0;
  RETURN_IF_ERROR(Read(key, value));
  out = value;
  return absl::OkStatus();
}

absl::Status FieldReader::Read(const char* key, std::optional<double>& out) const {
  if (Find(key) == nullptr) return absl::OkStatus();
  const auto value = ReadNumber(object_, key, -kMaxFloat, kMaxFloat);
  RETURN_IF_ERROR(Recode(value.status(), "number_out_of_range", Param(key)));
  out = *value;
  return absl::OkStatus();
}

absl::Status FieldReader::Read(const char* key, float& out) const {
  const auto value = ReadNumber(object_, key, -kMaxFloat, kMaxFloat, static_cast<double>(out));
  RETURN_IF_ERROR(Recode(value.status(), "number_out_of_range", Param(key)));
  out = static_cast<float>(*value);
  return absl::OkStatus();
}

absl::Status FieldReader::Read(const char* key, bool& out) const {
  const auto value = ReadBool(object_, key, out);
  RETURN_IF_ERROR(Recode(value.status(), "wrong_type", Param(key)));
  out = *value;
  return absl::OkStatus();
}

absl::Status FieldReader::Read(const char* key, std::string& out) const {
  if (Find(key) == nullptr) return absl::OkStatus();
  absl::StatusOr<std::string> value = ReadString(object_, key);
  RETURN_IF_ERROR(Recode(value.status(), "wrong_type", Param(key)));
  out = *std::move(value);
  return absl::OkStatus();
}

absl::Status FieldReader::ReadTokens(const char* key,
                                     size_t max_size,
                                     std::vector<int32_t>& out) const {
  const json* list = Find(key);
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) return WrongType(key, "a list of integers");
  if (list->size() > max_size) {
    return BadRequest("too_many_entries", Param(key), "this list has too many entries");
  }
  out.clear();
  for (const json& item : *list) {
    ASSIGN_OR_RETURN(const int32_t token, TokenFrom(item, Param(key)));
    out.push_back(token);
  }
  return absl::OkStatus();
}

absl::Status FieldReader::ReadStrings(const char* key,
                                      size_t max_size,
                                      bool or_one,
                                      std::vector<std::string>& out) const {
  const json* value = Find(key);
  if (value == nullptr) return absl::OkStatus();
  out.clear();
  if (or_one && value->is_string()) {
    out.push_back(*value->get_ptr<const json::string_t*>());
    return absl::OkStatus();
  }
  if (!value->is_array()) return WrongType(key, "a list of strings");
  if (value->size() > max_size) {
    return BadRequest("too_many_entries", Param(key), "this list has too many entries");
  }
  for (const json& item : *value) {
    if (!item.is_string()) return WrongType(key, "a list of strings");
    out.push_back(*item.get_ptr<const json::string_t*>());
  }
  return absl::OkStatus();
}

absl::StatusOr<const json*> FieldReader::Object(const char* key) const {
  const json* value = Find(key);
  if (value != nullptr && !value->is_object()) return WrongType(key, "an object");
  return value;
}

absl::Status FieldReader::WrongType(const char* key, std::string_view expected) const {
  return BadRequest("wrong_type", Param(key),
                    absl::StrCat("this field must be ", std::string(expected)));
}

absl::StatusOr<int32_t> TokenFrom(const json& value, std::string_view param) {
  if (!value.is_number_integer()) {
    return BadRequest("wrong_type", param, "token ids must be integers");
  }
  const auto number = *value.get_ptr<const json::number_integer_t*>();
  const bool huge = value.is_number_unsigned() && number < 0;  // above 2^63 - 1
  if (huge || number < 0 || number > kMaxInt32) {
    return BadRequest("token_out_of_vocab", param, "a token id is out of range");
  }
  return static_cast<int32_t>(number);
}

}  // namespace sluice::server
