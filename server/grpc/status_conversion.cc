#include "server/grpc/status_conversion.h"

#include <string>

#include "absl/strings/numbers.h"
#include "engine/request_error.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/auth/authenticator.h"

namespace sluice::server {
namespace {

constexpr int64_t kDefaultRetrySeconds = 1;

int64_t RetrySeconds(const absl::Status& status) {
  const auto payload = status.GetPayload({kRetryAfterPayload.data(), kRetryAfterPayload.size()});
  int64_t seconds = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &seconds)) {
    return kDefaultRetrySeconds;
  }
  return seconds;
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message(status.message());
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  google::rpc::ErrorInfo error;
  error.set_reason(ErrorCodeOf(status));
  error.set_domain("sluice");
  if (const std::string param = ErrorParamOf(status); !param.empty()) {
    (*error.mutable_metadata())["param"] = param;
  }
  if (!error.reason().empty()) details.add_details()->PackFrom(error);
  if (absl::IsResourceExhausted(status) || absl::IsUnavailable(status)) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(RetrySeconds(status));
    details.add_details()->PackFrom(retry);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      details.SerializeAsString());
}

}  // namespace sluice::server
