// One opened file of a model directory. A name is a plain file name, resolved beneath the
// directory; only regular files are opened, and never twice. Bytes are read with pread, never
// through a map that a truncated file would turn into SIGBUS. Not for parsing.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sluice {

// "model.safetensors" yes; "", ".", "..", "a/b" and names with a zero byte no.
bool IsPlainFileName(std::string_view name);

class ModelFile {
 public:
  // NotFound when there is no such file. InvalidArgument when the name is no plain file name, the
  // file is no regular file, or a symbolic link leads out of the directory.
  static absl::StatusOr<ModelFile> Open(const std::string& directory, const std::string& name);

  ModelFile(ModelFile&& other) noexcept;
  ModelFile& operator=(ModelFile&& other) noexcept;
  ~ModelFile();

  // Fills `into` from `offset`. DataLoss when the file ends before.
  absl::Status ReadAt(int64_t offset, std::span<std::byte> into) const;
  // The whole file as text; InvalidArgument when it is larger than `max_bytes`.
  absl::StatusOr<std::string> ReadText(int64_t max_bytes) const;
  // DataLoss when the file no longer has the size it was opened with.
  absl::Status CheckSize() const;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }
  // When the contents last changed, nanoseconds since 1970.
  int64_t modified_ns() const { return modified_ns_; }
  // True when both are the same file on disk.
  bool IsSameFile(const ModelFile& other) const;

 private:
  ModelFile(int descriptor, std::string path) : descriptor_(descriptor), path_(std::move(path)) {}

  int descriptor_ = -1;
  std::string path_;
  int64_t size_ = 0;
  int64_t modified_ns_ = 0;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace sluice
