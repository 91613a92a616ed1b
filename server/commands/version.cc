#include <cstdio>

#include "server/commands/commands.h"

#ifndef SLUICE_VERSION
#define SLUICE_VERSION "0.0.0"
#endif

namespace sluice::server {

const char* Version() { return SLUICE_VERSION; }

int RunVersion() {
  std::printf("sluice %s\n", Version());
  return kExitOk;
}

int ExitCodeOfLoadError(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kPermissionDenied:
      return kExitBadModel;
    default:
      return kExitInternal;
  }
}

}  // namespace sluice::server
