// absl::Status to grpc::Status: codes are numerically equal; the error's code, parameter and retry
// time go into the details as google.rpc.ErrorInfo and RetryInfo.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace sluice::server {

grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace sluice::server
