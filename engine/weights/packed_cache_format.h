// The fixed parts of a packed cache file, shared by its reader and its writer only.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/weights/checksum.h"
#include "engine/weights/packed_cache.h"

namespace sluice {

// Numbers are stored as this machine has them; on one of the other order the version differs.
inline constexpr std::array<char, 8> kPackedCacheMagic = {'S', 'L', 'U', 'I', 'C', 'E', 'P', 'K'};
inline constexpr size_t kMaxPackedCacheParts = 8;
inline constexpr uint64_t kPackedCacheBegin = 4096;  // of the first run
inline constexpr uint64_t kPackedCacheAlignment = 64;
// Read or written by one task: little enough to be summed while it is in the second cache.
inline constexpr uint64_t kPackedCacheChunkBytes = uint64_t{1} << 20;

struct PackedCacheHeader {
  std::array<char, 8> magic{};
  uint32_t version = 0;
  uint32_t num_parts = 0;
  uint64_t index_offset = 0;
  uint64_t index_bytes = 0;
  uint64_t index_checksum = 0;
  uint64_t file_bytes = 0;
  std::array<std::array<char, 64>, kMaxPackedCacheParts> digests{};  // hexadecimal SHA-256
  uint64_t checksum = 0;                                             // of everything before it
};
static_assert(sizeof(PackedCacheHeader) <= kPackedCacheBegin);
static_assert(offsetof(PackedCacheHeader, checksum) + sizeof(uint64_t) ==
              sizeof(PackedCacheHeader));

inline uint64_t ChecksumOf(const PackedCacheHeader& header) {
  const auto bytes = std::as_bytes(std::span(&header, 1));
  return Checksum64(bytes.first(offsetof(PackedCacheHeader, checksum)), kPackedCacheVersion);
}

inline uint64_t PackedCacheKey(std::string_view key) {
  return Checksum64(std::as_bytes(std::span(key.data(), key.size())), kPackedCacheVersion);
}

inline uint64_t NumChunks(uint64_t bytes) {
  return (bytes + kPackedCacheChunkBytes - 1) / kPackedCacheChunkBytes;
}

// Chunk `index` of a run.
template <typename Byte>
std::span<Byte> ChunkOf(std::span<Byte> bytes, int64_t index) {
  const size_t first = static_cast<size_t>(index) * kPackedCacheChunkBytes;
  return bytes.subspan(first, std::min<size_t>(kPackedCacheChunkBytes, bytes.size() - first));
}

// Of a run, from the sums of its chunks: the same however many threads took part.
inline uint64_t CombineChunks(uint64_t key, std::span<const uint64_t> chunks) {
  return Checksum64(std::as_bytes(chunks), key);
}

}  // namespace sluice
