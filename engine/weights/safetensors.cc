#include "engine/weights/safetensors.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

using kernels::DType;
using nlohmann::json;

constexpr int64_t kLengthBytes = 8;

struct StoredType {
  std::string_view name;
  std::optional<DType> dtype;
  int64_t bytes;
};

constexpr std::array<StoredType, 6> kStoredTypes = {{{"F32", DType::kF32, 4},
                                                     {"BF16", DType::kBF16, 2},
                                                     {"F16", DType::kF16, 2},
                                                     {"I32", DType::kI32, 4},
                                                     {"U8", DType::kU8, 1},
                                                     {"I64", std::nullopt, 8}}};

absl::Status TensorError(std::string_view name, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", QuotedTensorName(name), ": ", what));
}

absl::Status CheckMetadata(const json& metadata) {
  if (!metadata.is_object()) return absl::InvalidArgumentError("'__metadata__' must be an object");
  for (const json& value : metadata) {
    if (!value.is_string()) {
      return absl::InvalidArgumentError("every value of '__metadata__' must be a string");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<StoredType> FindStoredType(const json& entry) {
  ASSIGN_OR_RETURN(const std::string name, ReadString(entry, "dtype"));
  for (const StoredType& type : kStoredTypes) {
    if (type.name == name) return type;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("dtype ", QuotedTensorName(name), " is not supported (F32, BF16 and F16 are)"));
}

// `value_bytes` bounds every size, so the product cannot overflow.
absl::StatusOr<int64_t> CheckedBytes(const StoredType& type,
                                     const std::vector<int64_t>& shape,
                                     int64_t value_bytes) {
  int64_t bytes = type.bytes;
  for (const int64_t size : shape) {
    if (size == 0) return absl::InvalidArgumentError("has a dimension of zero");
    if (size > value_bytes / bytes) return absl::InvalidArgumentError("is larger than the file");
    bytes *= size;
  }
  return bytes;
}

absl::StatusOr<SafetensorsEntry> ReadEntry(const json& value, int64_t value_bytes) {
  if (!value.is_object()) return absl::InvalidArgumentError("must be an object");
  if (value.size() != 3) {
    return absl::InvalidArgumentError("must have dtype, shape and data_offsets and nothing else");
  }
  SafetensorsEntry entry;
  ASSIGN_OR_RETURN(const StoredType type, FindStoredType(value));
  entry.dtype = type.dtype;
  constexpr int64_t kLargestSize = int64_t{1} << 48;
  ASSIGN_OR_RETURN(entry.shape,
                   ReadIntList(value, "shape", 0, kLargestSize, kMaxSafetensorsDimensions));
  ASSIGN_OR_RETURN(const std::vector<int64_t> offsets,
                   ReadIntList(value, "data_offsets", 0, value_bytes, 2));
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    return absl::InvalidArgumentError("'data_offsets' must be [begin, end] with begin <= end");
  }
  ASSIGN_OR_RETURN(const int64_t bytes, CheckedBytes(type, entry.shape, value_bytes));
  if (bytes != offsets[1] - offsets[0]) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shape and dtype need ", bytes, " bytes, 'data_offsets' give ", offsets[1] - offsets[0]));
  }
  entry.offset = offsets[0];
  entry.bytes = bytes;
  return entry;
}

absl::Status CheckCoverage(const std::vector<SafetensorsEntry>& entries, int64_t value_bytes) {
  int64_t end = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.offset < end) return TensorError(entry.name, "overlaps the tensor before it");
    if (entry.offset > end) return TensorError(entry.name, "leaves a hole in the file before it");
    end += entry.bytes;
  }
  if (end != value_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tensors end at byte ", end, " of the values, the file at ", value_bytes));
  }
  return absl::OkStatus();
}

absl::StatusOr<SafetensorsContents> ReadContents(const ModelFile& file) {
  if (file.size() < kLengthBytes) return absl::InvalidArgumentError("shorter than a header length");
  std::array<std::byte, kLengthBytes> raw{};
  RETURN_IF_ERROR(file.ReadAt(0, raw));
  uint64_t length = 0;
  for (size_t i = 0; i < raw.size(); ++i) length |= static_cast<uint64_t>(raw[i]) << (8 * i);
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "header length ", length, " is above the limit of ", kMaxSafetensorsHeaderBytes));
  }
  SafetensorsContents contents;
  contents.values_begin = kLengthBytes + static_cast<int64_t>(length);
  if (contents.values_begin > file.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("header length ", length, " is larger than the file"));
  }
  std::string header(static_cast<size_t>(length), '\0');
  RETURN_IF_ERROR(file.ReadAt(kLengthBytes, std::as_writable_bytes(std::span<char>(header))));
  ASSIGN_OR_RETURN(contents.entries,
                   ParseSafetensorsHeader(header, file.size() - contents.values_begin));
  RETURN_IF_ERROR(file.CheckSize());
  return contents;
}

}  // namespace

std::string QuotedTensorName(std::string_view name) {
  constexpr size_t kLongest = 120;
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; };
  size_t end = std::min(name.size(), kLongest);
  while (end > 0 && end < name.size() && continues(name[end])) --end;  // whole characters
  std::string shown(name.substr(0, end));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return absl::StrCat("'", shown, name.size() > end ? "...'" : "'");
}

absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(std::string_view header,
                                                                     int64_t value_bytes) {
  if (header.empty() || header.front() != '{') {
    return absl::InvalidArgumentError("the header does not start with '{'");
  }
  // Per tensor: its key, its object, three keys, three values, up to eight sizes and two offsets.
  JsonLimits limits;
  limits.max_depth = 3;
  limits.max_nodes = kMaxSafetensorsTensors * 18;
  ASSIGN_OR_RETURN(const json root, ParseJson(header, limits));
  if (static_cast<int64_t>(root.size()) > kMaxSafetensorsTensors) {
    return absl::InvalidArgumentError(
        absl::StrCat("more than ", kMaxSafetensorsTensors, " tensors in one file"));
  }
  std::vector<SafetensorsEntry> entries;
  entries.reserve(root.size());
  for (const auto& [name, value] : root.items()) {
    if (name == "__metadata__") {
      RETURN_IF_ERROR(CheckMetadata(value));
      continue;
    }
    absl::StatusOr<SafetensorsEntry> entry = ReadEntry(value, value_bytes);
    if (!entry.ok()) return TensorError(name, entry.status().message());
    entry->name = name;
    entries.push_back(*std::move(entry));
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.offset, std::string_view(a.name)) <
           std::pair(b.offset, std::string_view(b.name));
  });
  RETURN_IF_ERROR(CheckCoverage(entries, value_bytes));
  return entries;
}

absl::StatusOr<SafetensorsContents> ReadSafetensorsHeader(const ModelFile& file) {
  absl::StatusOr<SafetensorsContents> contents = ReadContents(file);
  if (contents.ok()) return contents;
  return absl::Status(contents.status().code(),
                      absl::StrCat(file.path(), ": ", contents.status().message()));
}

}  // namespace sluice
