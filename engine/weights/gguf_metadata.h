// The key-value pairs of a GGUF header. Not for reading the file (gguf.h).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

namespace sluice {

enum class GgufValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12
};

// Bytes of one number; 0 for texts, arrays and unknown types.
int64_t GgufNumberBytes(GgufValueType type);

// One value as it stands in the file: `bytes` are little-endian numbers, or the text. Of an array,
// `element` is the type and `bytes` holds `count` elements, texts each behind its 8-byte length.
struct GgufValue {
  GgufValueType type = GgufValueType::kU8;
  GgufValueType element = GgufValueType::kU8;
  int64_t count = 0;
  std::string bytes;
};

// The key-value pairs. Each accessor returns InvalidArgument naming the key when the value has the
// wrong type or is out of range; a missing key is InvalidArgument unless a fallback is given.
class GgufMetadata {
 public:
  bool Has(std::string_view key) const { return values_.contains(key); }
  std::vector<std::string> Keys() const;
  absl::StatusOr<int64_t> Int(std::string_view key,
                              int64_t lo,
                              int64_t hi,
                              std::optional<int64_t> fallback = std::nullopt) const;
  // Finite.
  absl::StatusOr<double> Number(std::string_view key,
                                std::optional<double> fallback = std::nullopt) const;
  absl::StatusOr<bool> Bool(std::string_view key,
                            std::optional<bool> fallback = std::nullopt) const;
  // Valid UTF-8.
  absl::StatusOr<std::string> String(std::string_view key,
                                     std::optional<std::string> fallback = std::nullopt) const;
  bool IsArray(std::string_view key) const;
  // Lists of at most `max_size` elements. Texts may be any bytes. EachString copies nothing and
  // stops at the first error of `visit`.
  absl::Status EachString(std::string_view key,
                          int64_t max_size,
                          absl::FunctionRef<absl::Status(std::string_view)> visit) const;
  absl::StatusOr<std::vector<std::string>> Strings(std::string_view key, int64_t max_size) const;
  absl::StatusOr<std::vector<int64_t>> Ints(std::string_view key, int64_t max_size) const;
  absl::StatusOr<std::vector<float>> Floats(std::string_view key, int64_t max_size) const;

  // False when the key is there already.
  bool Insert(std::string key, GgufValue value) {
    return values_.emplace(std::move(key), std::move(value)).second;
  }

 private:
  absl::StatusOr<const GgufValue*> Array(std::string_view key, int64_t max_size) const;

  std::map<std::string, GgufValue, std::less<>> values_;
};

}  // namespace sluice
