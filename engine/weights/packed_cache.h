// A file of packed weights: written when a model is loaded for the first time, read by the next
// start instead of converting again. It holds the bytes that a backend made, each run with a
// checksum, and says what they were made from; a file that says anything else, or is damaged, is
// refused. That is a guard against accidents: whoever may write the file decides the weights. Not
// for deciding what belongs into it (engine/blocks/packed_source.h).
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

// Raise it whenever the format of the file changes, the loader reads other values from the same
// weights or joins other matrices, or a backend packs them into other bytes (only that
// tests/kernels/packed_bytes_test.cc notices). Files of other releases are refused anyway, by the
// server's version (engine/packed_model.cc).
inline constexpr uint32_t kPackedCacheVersion = 2;

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
  // Errors of ModelFile::Open, NotFound when there is no such file; FailedPrecondition ("was made
  // for other ...") and DataLoss ("is damaged: ...") for the caller to put the name before.
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

// Names of packed cache files end with so many hexadecimal digits and this.
inline constexpr size_t kPackedCacheNameDigits = 12;
inline constexpr char kPackedCacheSuffix[] = ".packed";

// Writes to `name`.tmp and renames it when it is complete: whoever opens `name` finds the old file
// or the whole new one. Nothing waits for the disk: a file that a power failure cut is noticed by
// its checksums.
class PackedCacheWriter {
 public:
  // First removes what killed processes left in the directory. PermissionDenied when the directory
  // is missing, is none or cannot be written; InvalidArgument for a name that is no plain file name
  // or too long; Unavailable when another process writes the same file, or for any other reason.
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
