#include "engine/architectures/config_reader.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/architectures/config_key_log.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/weights/model_file.h"

namespace sluice {

using nlohmann::json;

namespace {

constexpr int64_t kMaxConfigBytes = int64_t{4} << 20;

thread_local std::set<std::string>* asked = nullptr;  // of the log that lives

void Note(const char* key) {
  if (asked != nullptr) asked->insert(key);
}

}  // namespace

absl::Status WithPath(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", std::string(status.message())));
}

absl::StatusOr<json> ReadConfigFile(const std::string& directory, const char* name) {
  ASSIGN_OR_RETURN(const ModelFile file, ModelFile::Open(directory, name));
  ASSIGN_OR_RETURN(const std::string text, file.ReadText(kMaxConfigBytes));
  absl::StatusOr<json> value = ParseJson(text, JsonLimits{.max_depth = 16, .max_nodes = 200'000});
  if (!value.ok()) return WithPath(file.path(), value.status());
  if (!value->is_object())
    return absl::InvalidArgumentError(file.path() + ": must be a JSON object");
  return value;
}

ConfigKeyLog::ConfigKeyLog() { asked = &keys_; }
ConfigKeyLog::~ConfigKeyLog() { asked = nullptr; }

const json* ConfigReader::Member(const char* key) const {
  Note(key);
  return FindMember(object_, key);
}

void ConfigReader::Invalid(const char* key, const std::string& what) {
  Merge(absl::InvalidArgumentError(absl::StrCat("'", prefix_, key, "' ", what)));
}

void ConfigReader::Unimplemented(const char* key, const std::string& what) {
  Merge(absl::UnimplementedError(
      absl::StrCat("'", prefix_, key, "': ", what, " is not implemented")));
}

void ConfigReader::Merge(const absl::Status& status) {
  if (status_.ok()) status_ = status;
}

int64_t ConfigReader::Int(const char* key,
                          int64_t lo,
                          int64_t hi,
                          std::optional<int64_t> fallback) {
  Note(key);
  const absl::StatusOr<int64_t> value = ReadInt(object_, key, lo, hi, fallback);
  if (value.ok()) return *value;
  if (!Has(key)) {
    Invalid(key, "is missing");
  } else {
    Invalid(key, absl::StrCat("must be an integer between ", lo, " and ", hi));
  }
  return lo;
}

double ConfigReader::Number(const char* key, double lo, double hi, std::optional<double> fallback) {
  Note(key);
  const absl::StatusOr<double> value = ReadNumber(object_, key, lo, hi, fallback);
  if (value.ok()) return *value;
  if (!Has(key)) {
    Invalid(key, "is missing");
  } else {
    Invalid(key, absl::StrCat("must be a number between ", lo, " and ", hi));
  }
  return lo;
}

bool ConfigReader::Bool(const char* key, bool fallback) {
  Note(key);
  const absl::StatusOr<bool> value = ReadBool(object_, key, fallback);
  if (!value.ok()) Invalid(key, "must be true or false");
  return value.value_or(fallback);
}

std::string ConfigReader::String(const char* key, std::optional<std::string> fallback) {
  Note(key);
  const absl::StatusOr<std::string> value = ReadString(object_, key, std::move(fallback));
  if (!value.ok()) Invalid(key, Has(key) ? "must be a string" : "is missing");
  return value.value_or("");
}

std::vector<int64_t> ConfigReader::Ints(const char* key, int64_t lo, int64_t hi, size_t max_size) {
  const json* value = Member(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {Int(key, lo, hi)};
  absl::StatusOr<std::vector<int64_t>> list = ReadIntList(object_, key, lo, hi, max_size);
  if (list.ok()) return *std::move(list);
  Invalid(key, absl::StrCat("must be a list of at most ", max_size, " integers between ", lo,
                            " and ", hi));
  return {};
}

size_t ConfigReader::Choice(const char* key,
                            const std::vector<const char*>& names,
                            std::optional<size_t> fallback) {
  if (!Has(key) && fallback.has_value()) return *fallback;
  const std::string value = String(key);
  for (size_t i = 0; i < names.size(); ++i) {
    if (value == names[i]) return i;
  }
  Invalid(key, absl::StrCat("must be one of ", absl::StrJoin(names, ", ")));
  return 0;
}

}  // namespace sluice
