// manifest.json: SHA-256 of the files of a model directory, {"sha256": {"model.safetensors": "<64
// hex>", ...}}. Finds files that were corrupted or exchanged; it is no signature.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace sluice {

// OK when every listed file has the listed digest and every weight file, config and tokenizer of
// the directory is listed. Without a manifest: OK, or NotFound when `required`. DataLoss naming the
// first file that differs, InvalidArgument for a malformed manifest.
absl::Status VerifyManifest(const std::string& model_directory, bool required);

}  // namespace sluice
