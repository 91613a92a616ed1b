// Bytes of small GGUF files, well-formed or not.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::testing {

template <typename T>
std::string LittleEndian(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
inline std::string GgufText(std::string_view text) {
  return LittleEndian<uint64_t>(text.size()) + std::string(text);
}
// One pair: its key, its type (GgufValueType) and its value's bytes.
inline std::string GgufPair(std::string_view key, uint32_t type, std::string_view bytes) {
  return GgufText(key) + LittleEndian(type) + std::string(bytes);
}
inline std::string GgufInfo(std::string_view name,
                            const std::vector<uint64_t>& innermost_first,
                            uint32_t type,
                            uint64_t offset) {
  std::string bytes = GgufText(name) + LittleEndian(static_cast<uint32_t>(innermost_first.size()));
  for (const uint64_t size : innermost_first) bytes += LittleEndian(size);
  return bytes + LittleEndian(type) + LittleEndian(offset);
}

struct GgufParts {
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t num_tensors = 0;
  uint64_t num_pairs = 0;
  std::string pairs;
  std::string infos;
  size_t alignment = 32;
  std::string values;

  std::string Bytes() const {
    std::string bytes = magic + LittleEndian(version) + LittleEndian(num_tensors) +
                        LittleEndian(num_pairs) + pairs + infos;
    if (!values.empty()) bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    return bytes + values;
  }
};

}  // namespace sluice::testing
