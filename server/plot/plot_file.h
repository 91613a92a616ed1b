// Where `--plot` writes: a file that is there as a whole or not at all. An empty path asks for
// none.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace sluice::server {

// Whether `path` can be written, for before a long measurement; leaves nothing behind.
// InvalidArgument that names --plot.
absl::Status CheckPlotFile(const std::string& path);

// To a temporary file beside it, which then takes its name. Unavailable that names --plot.
absl::Status WritePlotFile(const std::string& path, const std::string& svg);

}  // namespace sluice::server
