#include "engine/weights/gguf_metadata.h"

#include <cmath>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/weights/safetensors.h"

namespace sluice {
namespace {

absl::Status Invalid(const std::string& what) { return absl::InvalidArgumentError(what); }

std::string QuotedKey(std::string_view key) { return QuotedTensorName(key); }

template <typename T>
T Load(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// Nothing for types that are no integer, and for integers above 2^63 - 1.
std::optional<int64_t> Integer(GgufValueType type, const char* at) {
  switch (type) {
    case GgufValueType::kU8:
      return Load<uint8_t>(at);
    case GgufValueType::kI8:
      return Load<int8_t>(at);
    case GgufValueType::kU16:
      return Load<uint16_t>(at);
    case GgufValueType::kI16:
      return Load<int16_t>(at);
    case GgufValueType::kU32:
      return Load<uint32_t>(at);
    case GgufValueType::kI32:
      return Load<int32_t>(at);
    case GgufValueType::kI64:
      return Load<int64_t>(at);
    case GgufValueType::kU64: {
      const auto value = Load<uint64_t>(at);
      if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

// Bytes of one number; 0 for texts, arrays and unknown types.
int64_t GgufNumberBytes(GgufValueType type) {
  switch (type) {
    case GgufValueType::kU8:
    case GgufValueType::kI8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kU16:
    case GgufValueType::kI16:
      return 2;
    case GgufValueType::kU32:
    case GgufValueType::kI32:
    case GgufValueType::kF32:
      return 4;
    case GgufValueType::kU64:
    case GgufValueType::kI64:
    case GgufValueType::kF64:
      return 8;
    case GgufValueType::kString:
    case GgufValueType::kArray:
      break;
  }
  return 0;
}

std::vector<std::string> GgufMetadata::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : values_) keys.push_back(key);
  return keys;
}

absl::StatusOr<int64_t> GgufMetadata::Int(std::string_view key,
                                          int64_t lo,
                                          int64_t hi,
                                          std::optional<int64_t> fallback) const {
  const auto it = values_.find(key);
  if (it == values_.end() && fallback.has_value()) return *fallback;
  if (it == values_.end()) return Invalid(absl::StrCat(QuotedKey(key), " is missing"));
  const std::optional<int64_t> value = Integer(it->second.type, it->second.bytes.data());
  if (!value.has_value() || *value < lo || *value > hi) {
    return Invalid(absl::StrCat(QuotedKey(key), " must be an integer between ", lo, " and ", hi));
  }
  return *value;
}

absl::StatusOr<double> GgufMetadata::Number(std::string_view key,
                                            std::optional<double> fallback) const {
  const auto it = values_.find(key);
  if (it == values_.end() && fallback.has_value()) return *fallback;
  if (it == values_.end()) return Invalid(absl::StrCat(QuotedKey(key), " is missing"));
  double value = NAN;
  if (it->second.type == GgufValueType::kF32) value = Load<float>(it->second.bytes.data());
  if (it->second.type == GgufValueType::kF64) value = Load<double>(it->second.bytes.data());
  if (!std::isfinite(value))
    return Invalid(absl::StrCat(QuotedKey(key), " must be a finite float"));
  return value;
}

absl::StatusOr<bool> GgufMetadata::Bool(std::string_view key, std::optional<bool> fallback) const {
  const auto it = values_.find(key);
  if (it == values_.end() && fallback.has_value()) return *fallback;
  if (it == values_.end()) return Invalid(absl::StrCat(QuotedKey(key), " is missing"));
  const char byte = it->second.bytes.empty() ? 2 : it->second.bytes[0];
  if (it->second.type != GgufValueType::kBool || byte < 0 || byte > 1) {
    return Invalid(absl::StrCat(QuotedKey(key), " must be a bool"));
  }
  return byte == 1;
}

absl::StatusOr<std::string> GgufMetadata::String(std::string_view key,
                                                 std::optional<std::string> fallback) const {
  const auto it = values_.find(key);
  if (it == values_.end() && fallback.has_value()) return *fallback;
  if (it == values_.end()) return Invalid(absl::StrCat(QuotedKey(key), " is missing"));
  if (it->second.type != GgufValueType::kString || !IsValidUtf8(it->second.bytes)) {
    return Invalid(absl::StrCat(QuotedKey(key), " must be UTF-8 text"));
  }
  return it->second.bytes;
}

absl::StatusOr<const GgufValue*> GgufMetadata::Array(std::string_view key, int64_t max_size) const {
  const auto it = values_.find(key);
  if (it == values_.end()) return Invalid(absl::StrCat(QuotedKey(key), " is missing"));
  if (it->second.type != GgufValueType::kArray) {
    return Invalid(absl::StrCat(QuotedKey(key), " must be an array"));
  }
  if (it->second.count > max_size) {
    return Invalid(absl::StrCat(QuotedKey(key), " has ", it->second.count, " elements; at most ",
                                max_size, " are allowed"));
  }
  return &it->second;
}

bool GgufMetadata::IsArray(std::string_view key) const {
  const auto it = values_.find(key);
  return it != values_.end() && it->second.type == GgufValueType::kArray;
}

absl::Status GgufMetadata::EachString(
    std::string_view key,
    int64_t max_size,
    absl::FunctionRef<absl::Status(std::string_view)> visit) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Array(key, max_size));
  if (value->element != GgufValueType::kString) {
    return Invalid(absl::StrCat(QuotedKey(key), " must be an array of texts"));
  }
  const std::string_view bytes = value->bytes;
  for (size_t at = 0; at < bytes.size();) {
    const auto length = static_cast<size_t>(Load<uint64_t>(bytes.data() + at));
    RETURN_IF_ERROR(visit(bytes.substr(at + sizeof(uint64_t), length)));
    at += sizeof(uint64_t) + length;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> GgufMetadata::Strings(std::string_view key,
                                                               int64_t max_size) const {
  std::vector<std::string> texts;
  RETURN_IF_ERROR(EachString(key, max_size, [&](std::string_view text) {
    texts.emplace_back(text);
    return absl::OkStatus();
  }));
  return texts;
}

absl::StatusOr<std::vector<int64_t>> GgufMetadata::Ints(std::string_view key,
                                                        int64_t max_size) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Array(key, max_size));
  std::vector<int64_t> numbers;
  const auto bytes = static_cast<size_t>(GgufNumberBytes(value->element));
  for (int64_t i = 0; i < value->count; ++i) {
    const auto at = static_cast<size_t>(i) * bytes;
    const auto number =
        bytes == 0 ? std::nullopt : Integer(value->element, value->bytes.data() + at);
    if (!number.has_value()) {
      return Invalid(absl::StrCat(QuotedKey(key), " must be an array of integers"));
    }
    numbers.push_back(*number);
  }
  return numbers;
}

absl::StatusOr<std::vector<float>> GgufMetadata::Floats(std::string_view key,
                                                        int64_t max_size) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Array(key, max_size));
  std::vector<float> numbers(static_cast<size_t>(value->count));
  if (value->element != GgufValueType::kF32) {
    return Invalid(absl::StrCat(QuotedKey(key), " must be an array of 32-bit floats"));
  }
  std::memcpy(numbers.data(), value->bytes.data(), value->bytes.size());
  for (const float number : numbers) {
    if (!std::isfinite(number)) return Invalid(absl::StrCat(QuotedKey(key), " is not finite"));
  }
  return numbers;
}

}  // namespace sluice
