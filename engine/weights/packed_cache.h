// A file of packed weights beside nothing else: written after a model was loaded once, read by the
// next start instead of converting again. It holds the bytes that a backend made, each run with a
// checksum, and says what they were made from; a file that says anything else, or is damaged, is
// refused and never trusted. Not for deciding what belongs into it (engine/blocks/packed_source.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/weights/model_file.h"

namespace sluice {

// Raise it whenever the format of the file changes or a backend packs the same weights into other
// bytes (tests/kernels/packing_test.cc notices).
inline constexpr uint32_t kPackedCacheVersion = 1;

// One thing that decides the packed bytes: {"weights", "int8"}.
struct PackedCachePart {
  std::string name;
  std::string value;
};
using PackedCacheIdentity = std::vector<PackedCachePart>;

// Runs task(i) for every i in [0, count), on several threads or one (Backend::ForEach).
using ForEachTask = absl::FunctionRef<void(int64_t count, absl::FunctionRef<void(int64_t)> task)>;

// Layout, little endian: PackedCacheHeader, runs of bytes at multiples of 64, then the index.
struct PackedCacheEntry {
  uint64_t key = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t checksum = 0;
};

class PackedCacheReader {
 public:
  // NotFound when there is no such file, FailedPrecondition saying what it was made for instead,
  // DataLoss when it is damaged. Messages leave out the path.
  static absl::StatusOr<std::unique_ptr<PackedCacheReader>> Open(
      const std::string& directory, const std::string& name, const PackedCacheIdentity& identity);

  // Fills `into` with what was written under `key`. DataLoss when there is no run of that size, or
  // its checksum differs.
  absl::Status Read(std::string_view key, std::span<std::byte> into, ForEachTask for_each) const;

  int64_t file_bytes() const { return file_.size(); }

 private:
  explicit PackedCacheReader(ModelFile file) : file_(std::move(file)) {}
  absl::Status ReadIndex(uint64_t offset, uint64_t bytes, uint64_t checksum);

  ModelFile file_;
  std::map<uint64_t, PackedCacheEntry> entries_;
};

// Writes to `name`.tmp and renames it when everything is on the disk: whoever opens `name` finds
// the old file or the whole new one.
class PackedCacheWriter {
 public:
  // PermissionDenied when the directory is missing or cannot be written, Unavailable when another
  // process writes the same file.
  static absl::StatusOr<std::unique_ptr<PackedCacheWriter>> Create(const std::string& directory,
                                                                   const std::string& name);
  ~PackedCacheWriter();
  PackedCacheWriter(const PackedCacheWriter&) = delete;
  PackedCacheWriter& operator=(const PackedCacheWriter&) = delete;

  // Errors (a full disk) are kept for Finish; nothing is written after one.
  void Write(std::string_view key, std::span<const std::byte> bytes, ForEachTask for_each);
  // The number of bytes of the file. After an error there is no file, or the old one.
  absl::StatusOr<int64_t> Finish(const PackedCacheIdentity& identity);

 private:
  PackedCacheWriter(int directory, int file, std::string name)
      : directory_(directory), file_(file), name_(std::move(name)) {}
  absl::Status WriteEnd(const PackedCacheIdentity& identity);

  int directory_ = -1;
  int file_ = -1;
  std::string name_;
  uint64_t next_ = 0;
  std::vector<PackedCacheEntry> entries_;
  absl::Status status_;
};

}  // namespace sluice
