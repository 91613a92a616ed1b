// The safetensors container: 8 bytes little-endian header length, a JSON header, then the values.
// Every number of the header is checked against the real file size before anything is allocated by
// it (reliability.md 2.2, stricter than the reference: duplicate keys, holes and empty tensors are
// refused). Not for shards (weight_store.h) and not for values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/model_file.h"
#include "kernels/dtype.h"

namespace sluice {

inline constexpr int64_t kMaxSafetensorsHeaderBytes = int64_t{16} << 20;
inline constexpr int64_t kMaxSafetensorsTensors = 100'000;
inline constexpr int64_t kMaxSafetensorsDimensions = 8;

// A tensor name as it may stand in a message: it is outside text, so shortened and without control
// characters.
std::string QuotedTensorName(std::string_view name);

struct SafetensorsEntry {
  std::string name;
  // Empty for 64-bit integers, which some checkpoints keep as counters: listed, but not readable.
  std::optional<kernels::DType> dtype;
  std::vector<int64_t> shape;
  int64_t offset = 0;  // from the first byte of the values
  int64_t bytes = 0;
};

// Checks a JSON header whose values take exactly `value_bytes` bytes. Entries come in file order.
// InvalidArgument naming the rule and, where there is one, the tensor.
absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(std::string_view header,
                                                                     int64_t value_bytes);

struct SafetensorsContents {
  int64_t values_begin = 0;  // file offset of the first value
  std::vector<SafetensorsEntry> entries;
};

// As above for a whole file; messages start with its path.
absl::StatusOr<SafetensorsContents> ReadSafetensorsHeader(const ModelFile& file);

}  // namespace sluice
