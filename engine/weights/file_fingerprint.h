// What tells weight files from others without reading all of them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/model_file.h"

namespace sluice {

struct FileRange {
  int64_t offset = 0;
  int64_t bytes = 0;
};

// Of each file its size, the time of its last change and the SHA-256 of what stands in the middle
// of each of its tensors: a page, less where there are more than 4,096 tensors, at most 16 MiB
// altogether. Notices every tensor that was trained, quantised or written anew, also where a tool
// sets all times to the same. Does not notice values that change elsewhere in a tensor of a file
// that keeps its size and time. `tensors[i]` are the ranges of `files[i]`. Errors of
// ModelFile::ReadAt.
absl::StatusOr<std::string> FingerprintOf(std::span<const ModelFile> files,
                                          std::span<const std::vector<FileRange>> tensors);

// Hexadecimal SHA-256 of `text`. Internal when the library fails.
absl::StatusOr<std::string> Sha256Hex(const std::string& text);

}  // namespace sluice
