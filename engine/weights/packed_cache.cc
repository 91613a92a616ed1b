#include "engine/weights/packed_cache.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/status_macros.h"
#include "engine/weights/file_fingerprint.h"
#include "engine/weights/packed_cache_format.h"

namespace sluice {
namespace {

// Two million matrices.
constexpr uint64_t kMaxIndexBytes = uint64_t{64} << 20;

absl::Status Damaged(const char* what) {
  return absl::DataLossError(absl::StrCat("is damaged: ", what));
}

absl::Status CheckHeader(const PackedCacheHeader& header,
                         uint64_t file_bytes,
                         const PackedCacheIdentity& identity) {
  if (header.magic != kPackedCacheMagic) return Damaged("it does not begin like a packed cache");
  if (header.version != kPackedCacheVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "has version ", header.version, "; this server reads version ", kPackedCacheVersion));
  }
  if (header.checksum != ChecksumOf(header)) return Damaged("the checksum of its header differs");
  if (header.file_bytes != file_bytes) {
    return Damaged(header.file_bytes > file_bytes ? "it was cut short" : "it grew");
  }
  if (header.num_parts != identity.size()) return Damaged("it does not say what it was made for");
  for (size_t i = 0; i < identity.size(); ++i) {
    ASSIGN_OR_RETURN(const std::string digest, Sha256Hex(identity[i].value));
    if (!std::equal(digest.begin(), digest.end(), header.digests[i].begin(),
                    header.digests[i].end())) {
      return absl::FailedPreconditionError(absl::StrCat("was made for other ", identity[i].name));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedCacheReader>> PackedCacheReader::Open(
    const std::string& directory, const std::string& name, const PackedCacheIdentity& identity) {
  ASSIGN_OR_RETURN(ModelFile file, ModelFile::Open(directory, name));
  PackedCacheHeader header;
  const auto file_bytes = static_cast<uint64_t>(file.size());
  if (file_bytes < kPackedCacheBegin) return Damaged("it is shorter than its header");
  RETURN_IF_ERROR(file.ReadAt(0, std::as_writable_bytes(std::span(&header, 1))));
  RETURN_IF_ERROR(CheckHeader(header, file_bytes, identity));
  std::unique_ptr<PackedCacheReader> reader(new PackedCacheReader(std::move(file)));
  RETURN_IF_ERROR(
      reader->ReadIndex(header.index_offset, header.index_bytes, header.index_checksum));
  return reader;
}

absl::Status PackedCacheReader::ReadIndex(uint64_t offset, uint64_t bytes, uint64_t checksum) {
  const auto file_bytes = static_cast<uint64_t>(file_.size());
  if (bytes > kMaxIndexBytes || bytes % sizeof(PackedCacheEntry) != 0 || bytes > file_bytes ||
      offset != file_bytes - bytes || offset < kPackedCacheBegin) {
    return Damaged("its index lies outside of it");
  }
  std::vector<PackedCacheEntry> entries(bytes / sizeof(PackedCacheEntry));
  RETURN_IF_ERROR(
      file_.ReadAt(static_cast<int64_t>(offset), std::as_writable_bytes(std::span(entries))));
  if (Checksum64(std::as_bytes(std::span(entries)), kPackedCacheVersion) != checksum)
    return Damaged("the checksum of its index differs");
  for (const PackedCacheEntry& entry : entries) {
    if (entry.offset < kPackedCacheBegin || entry.offset > offset ||
        entry.bytes > offset - entry.offset) {
      return Damaged("an entry lies outside of it");
    }
    entries_[entry.key] = entry;
  }
  return absl::OkStatus();
}

absl::Status PackedCacheReader::Read(std::string_view key,
                                     std::span<std::byte> into,
                                     ForEachTask for_each) const {
  const auto it = entries_.find(PackedCacheKey(key));
  if (it == entries_.end()) return Damaged("a matrix is missing");
  const PackedCacheEntry& entry = it->second;
  if (entry.bytes != into.size()) return Damaged("a matrix has another size");
  std::vector<uint64_t> sums(NumChunks(entry.bytes));
  std::atomic<bool> failed = false;
  for_each(static_cast<int64_t>(sums.size()), [&](int64_t i) {
    const std::span<std::byte> chunk = ChunkOf(into, i);
    const uint64_t offset = entry.offset + static_cast<uint64_t>(i) * kPackedCacheChunkBytes;
    if (!file_.ReadAt(static_cast<int64_t>(offset), chunk).ok()) return failed.store(true);
    sums[static_cast<size_t>(i)] = Checksum64(chunk, static_cast<uint64_t>(i));
  });
  if (failed.load()) return Damaged("it cannot be read to its end");
  if (CombineChunks(entry.key, sums) != entry.checksum)
    return Damaged("the checksum of a matrix differs");
  return absl::OkStatus();
}

}  // namespace sluice
