#include "engine/version.h"

#include <cstdio>

#include "server/commands/commands.h"

namespace sluice::server {

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
      return kExitBadModel;
    case absl::StatusCode::kPermissionDenied:    // of the directory of --packed-cache, nothing else
    case absl::StatusCode::kFailedPrecondition:  // flags that ask for what is not there
      return kExitUsage;
    default:
      return kExitInternal;
  }
}

}  // namespace sluice::server
