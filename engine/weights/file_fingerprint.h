// What tells one weight file from another without reading all of it.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/weights/model_file.h"

namespace sluice {

// Size, time of the last change and the SHA-256 of 256 pages spread evenly over the file (all of a
// file up to 1 MiB), so that two trainings of one architecture differ even where tools set all
// times to the same. What changes a few values and keeps both size and time is not seen. Errors of
// ModelFile::ReadAt.
absl::StatusOr<std::string> FileFingerprint(const ModelFile& file);

// Hexadecimal SHA-256 of `text`. Internal when the library fails.
absl::StatusOr<std::string> Sha256Hex(const std::string& text);

}  // namespace sluice
