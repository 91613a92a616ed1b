// Reads a small file that is not JSON (tokenizer.model, chat_template.jinja) with a size limit.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace sluice {

// NotFound when it does not exist, InvalidArgument when it is no regular file, larger than
// `max_bytes`, or cannot be read.
absl::StatusOr<std::string> ReadFileBytes(const std::string& path, int64_t max_bytes);

}  // namespace sluice
