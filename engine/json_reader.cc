#include "engine/json_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

using nlohmann::json;

// Walks the text without building values; stops at the first broken limit.
class LimitChecker : public nlohmann::json_sax<json> {
 public:
  explicit LimitChecker(const JsonLimits& limits) : limits_(limits) {}

  bool null() override { return Count(); }
  bool boolean(bool) override { return Count(); }
  bool number_integer(number_integer_t) override { return Count(); }
  bool number_unsigned(number_unsigned_t) override { return Count(); }
  bool number_float(number_float_t, const string_t&) override { return Count(); }
  bool string(string_t&) override { return Count(); }
  bool binary(binary_t&) override { return Count(); }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return Enter();
  }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second) return Fail(JsonFault::kDuplicateKey);
    return Count();
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override { return Enter(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(JsonFault::kSyntax);
  }

  JsonFault fault() const { return fault_; }

 private:
  bool Fail(JsonFault fault) {
    if (fault_ == JsonFault::kNone) fault_ = fault;
    return false;
  }
  bool Count() { return ++nodes_ <= limits_.max_nodes || Fail(JsonFault::kTooManyNodes); }
  bool Enter() { return ++depth_ <= limits_.max_depth ? Count() : Fail(JsonFault::kTooDeep); }

  JsonLimits limits_;
  int depth_ = 0;
  int64_t nodes_ = 0;
  JsonFault fault_ = JsonFault::kNone;
  std::vector<absl::flat_hash_set<std::string>> keys_;
};

const char* Describe(JsonFault fault) {
  switch (fault) {
    case JsonFault::kTooDeep:
      return "JSON is nested too deeply";
    case JsonFault::kTooManyNodes:
      return "JSON has too many values";
    case JsonFault::kDuplicateKey:
      return "JSON object has a duplicate key";
    case JsonFault::kInvalidUtf8:
      return "JSON is not valid UTF-8";
    case JsonFault::kNone:
    case JsonFault::kSyntax:
      break;
  }
  return "not valid JSON";
}

absl::Status WrongType(const char* key, const char* expected) {
  return absl::InvalidArgumentError(absl::StrCat("'", key, "' must be ", expected));
}

absl::Status Missing(const char* key) {
  return absl::InvalidArgumentError(absl::StrCat("'", key, "' is missing"));
}

absl::StatusOr<int64_t> ToInt(const json& value, const char* key, int64_t lo, int64_t hi) {
  if (!value.is_number_integer()) return WrongType(key, "an integer");
  const bool too_large =
      value.is_number_unsigned() && *value.get_ptr<const json::number_unsigned_t*>() >
                                        static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  const int64_t number = too_large ? 0 : *value.get_ptr<const json::number_integer_t*>();
  if (too_large || number < lo || number > hi) {
    return absl::OutOfRangeError(absl::StrCat("'", key, "' must be between ", lo, " and ", hi));
  }
  return number;
}

}  // namespace

bool IsValidUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    int extra = 0;
    uint32_t code = lead;
    uint32_t lowest = 0;
    if (lead < 0x80) {
      ++i;
      continue;
    }
    if ((lead & 0xE0) == 0xC0) {
      extra = 1, code = lead & 0x1F, lowest = 0x80;
    } else if ((lead & 0xF0) == 0xE0) {
      extra = 2, code = lead & 0x0F, lowest = 0x800;
    } else if ((lead & 0xF8) == 0xF0) {
      extra = 3, code = lead & 0x07, lowest = 0x10000;
    } else {
      return false;
    }
    if (i + static_cast<size_t>(extra) >= text.size()) return false;
    for (int j = 1; j <= extra; ++j) {
      const auto next = static_cast<unsigned char>(text[i + static_cast<size_t>(j)]);
      if ((next & 0xC0) != 0x80) return false;
      code = (code << 6) | (next & 0x3F);
    }
    if (code < lowest || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return false;
    i += static_cast<size_t>(extra) + 1;
  }
  return true;
}

absl::StatusOr<json> ParseJson(std::string_view text, const JsonLimits& limits, JsonFault* fault) {
  JsonFault found = JsonFault::kNone;
  if (!IsValidUtf8(text)) {
    found = JsonFault::kInvalidUtf8;
  } else {
    LimitChecker checker(limits);
    const bool ok = json::sax_parse(text.begin(), text.end(), &checker);
    if (!ok) found = checker.fault() == JsonFault::kNone ? JsonFault::kSyntax : checker.fault();
  }
  json value;
  if (found == JsonFault::kNone) {
    value = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
    if (value.is_discarded()) found = JsonFault::kSyntax;
  }
  if (fault != nullptr) *fault = found;
  if (found != JsonFault::kNone) return absl::InvalidArgumentError(Describe(found));
  return value;
}

absl::StatusOr<json> ReadJsonFile(const std::string& path,
                                  int64_t max_bytes,
                                  const JsonLimits& limits) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
  struct stat info {};
  absl::Status status;
  std::string text;
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    status = absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  } else if (info.st_size > max_bytes) {
    status = absl::InvalidArgumentError(
        absl::StrCat(path, ": larger than the limit of ", max_bytes, " bytes"));
  } else {
    text.resize(static_cast<size_t>(info.st_size));
    size_t done = 0;
    while (done < text.size()) {
      const ssize_t n = ::read(fd, text.data() + done, text.size() - done);
      if (n <= 0) break;
      done += static_cast<size_t>(n);
    }
    if (done != text.size())
      status = absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  }
  ::close(fd);
  if (!status.ok()) return status;
  absl::StatusOr<json> value = ParseJson(text, limits);
  if (!value.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", value.status().message()));
  }
  return value;
}

const json* FindMember(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<int64_t> ReadInt(
    const json& object, const char* key, int64_t lo, int64_t hi, std::optional<int64_t> fallback) {
  const json* value = FindMember(object, key);
  if (value != nullptr) return ToInt(*value, key, lo, hi);
  if (fallback.has_value()) return *fallback;
  return Missing(key);
}

absl::StatusOr<double> ReadNumber(
    const json& object, const char* key, double lo, double hi, std::optional<double> fallback) {
  const json* value = FindMember(object, key);
  if (value == nullptr) {
    if (fallback.has_value()) return *fallback;
    return Missing(key);
  }
  double number = 0;
  if (value->is_number_float()) {
    number = *value->get_ptr<const json::number_float_t*>();
  } else if (value->is_number_unsigned()) {
    number = static_cast<double>(*value->get_ptr<const json::number_unsigned_t*>());
  } else if (value->is_number_integer()) {
    number = static_cast<double>(*value->get_ptr<const json::number_integer_t*>());
  } else {
    return WrongType(key, "a number");
  }
  if (!std::isfinite(number) || number < lo || number > hi) {
    return absl::OutOfRangeError(absl::StrCat("'", key, "' must be between ", lo, " and ", hi));
  }
  return number;
}

absl::StatusOr<bool> ReadBool(const json& object, const char* key, std::optional<bool> fallback) {
  const json* value = FindMember(object, key);
  if (value == nullptr) {
    if (fallback.has_value()) return *fallback;
    return Missing(key);
  }
  if (!value->is_boolean()) return WrongType(key, "true or false");
  return *value->get_ptr<const json::boolean_t*>();
}

absl::StatusOr<std::string> ReadString(const json& object,
                                       const char* key,
                                       std::optional<std::string> fallback) {
  const json* value = FindMember(object, key);
  if (value == nullptr) {
    if (fallback.has_value()) return *std::move(fallback);
    return Missing(key);
  }
  if (!value->is_string()) return WrongType(key, "a string");
  return *value->get_ptr<const json::string_t*>();
}

absl::StatusOr<std::vector<int64_t>> ReadIntList(
    const json& object, const char* key, int64_t lo, int64_t hi, size_t max_size) {
  const json* value = FindMember(object, key);
  if (value == nullptr) return Missing(key);
  if (!value->is_array()) return WrongType(key, "a list of integers");
  if (value->size() > max_size) {
    return absl::OutOfRangeError(absl::StrCat("'", key, "' has more than ", max_size, " entries"));
  }
  std::vector<int64_t> numbers;
  numbers.reserve(value->size());
  for (const json& item : *value) {
    ASSIGN_OR_RETURN(const int64_t number, ToInt(item, key, lo, hi));
    numbers.push_back(number);
  }
  return numbers;
}

}  // namespace sluice
