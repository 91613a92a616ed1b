// Any bytes as a safetensors file: refused, or its tensors cover the values exactly.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/weights/safetensors.h"
#include "kernels/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= uint64_t{data[i]} << (8 * i);
  const size_t rest = size - 8;
  // The mutator seldom guesses a length, so any other value means the whole input.
  const size_t header_bytes = length <= rest ? static_cast<size_t>(length) : rest;
  const std::string_view header(reinterpret_cast<const char*>(data) + 8, header_bytes);
  const auto value_bytes = static_cast<int64_t>(rest - header_bytes);
  const auto entries = sluice::ParseSafetensorsHeader(header, value_bytes);
  if (!entries.ok()) {
    SLUICE_CHECK(entries.status().message().find('\n') == absl::string_view::npos);
    return 0;
  }
  int64_t end = 0;
  for (const sluice::SafetensorsEntry& entry : *entries) {
    SLUICE_CHECK(entry.offset == end) << entry.offset << " " << end;
    int64_t bytes = entry.dtype.has_value() ? sluice::kernels::SizeOf(*entry.dtype) : 8;
    for (const int64_t dimension : entry.shape) bytes *= dimension;
    SLUICE_CHECK(entry.bytes == bytes && bytes > 0) << entry.bytes << " " << bytes;
    end += bytes;
  }
  SLUICE_CHECK(end == value_bytes) << end << " " << value_bytes;
  return 0;
}
