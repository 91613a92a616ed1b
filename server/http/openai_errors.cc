#include "server/http/openai_errors.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "absl/strings/numbers.h"
#include "engine/request_error.h"
#include "server/auth/authenticator.h"

namespace sluice::server {
namespace {

constexpr const char* kInvalidRequest = "invalid_request_error";
constexpr const char* kServerError = "server_error";
constexpr const char* kUnavailable = "service_unavailable_error";

struct CodeRow {
  std::string_view code;
  int status;
};

// Codes whose HTTP status is not that of their absl code.
constexpr std::array<CodeRow, 10> kCodeRows = {{
    {"content_too_large", 413},
    {"headers_too_large", 431},
    {"uri_too_long", 414},
    {"unsupported_encoding", 415},
    {"unsupported_media_type", 415},
    {"method_not_allowed", 405},
    {"expectation_failed", 417},
    {"request_timeout", 408},
    {"shutting_down", 503},
    {"model_loading", 503},
}};

struct StatusRow {
  absl::StatusCode code;
  int status;
  const char* type;
};

constexpr std::array<StatusRow, 11> kStatusRows = {{
    {absl::StatusCode::kInvalidArgument, 400, kInvalidRequest},
    {absl::StatusCode::kOutOfRange, 400, kInvalidRequest},
    {absl::StatusCode::kFailedPrecondition, 400, kInvalidRequest},
    {absl::StatusCode::kUnimplemented, 400, kInvalidRequest},
    {absl::StatusCode::kUnauthenticated, 401, "authentication_error"},
    {absl::StatusCode::kPermissionDenied, 403, "permission_error"},
    {absl::StatusCode::kNotFound, 404, "not_found_error"},
    {absl::StatusCode::kDeadlineExceeded, 504, "timeout_error"},
    {absl::StatusCode::kResourceExhausted, 429, "rate_limit_error"},
    {absl::StatusCode::kCancelled, 499, kInvalidRequest},
    {absl::StatusCode::kUnavailable, 503, kUnavailable},
}};

const char* TypeOfStatus(int status, const char* fallback) {
  if (status == 429 || status == 503 || status == 401 || status == 403 || status == 404) {
    return fallback;
  }
  return status >= 500 ? fallback : kInvalidRequest;
}

}  // namespace

HttpError ClassifyError(const absl::Status& error) {
  HttpError result{.status = 500,
                   .type = kServerError,
                   .code = ErrorCodeOf(error),
                   .retry_after_seconds = std::nullopt};
  for (const StatusRow& row : kStatusRows) {
    if (row.code != error.code()) continue;
    result.status = row.status;
    result.type = row.type;
  }
  if (result.code.empty() && absl::IsDeadlineExceeded(error)) result.code = "deadline_exceeded";
  for (const CodeRow& row : kCodeRows) {
    if (row.code != result.code) continue;
    result.status = row.status;
    result.type = TypeOfStatus(row.status, row.status == 503 ? kUnavailable : result.type);
  }
  if (result.status == 429 || result.status == 503) {
    int seconds = 1;
    const auto payload = error.GetPayload({kRetryAfterPayload.data(), kRetryAfterPayload.size()});
    if (payload.has_value() && !absl::SimpleAtoi(std::string(*payload), &seconds)) seconds = 1;
    result.retry_after_seconds = std::max(seconds, 1);
  }
  return result;
}

nlohmann::json ErrorJson(const absl::Status& error) {
  const HttpError mapped = ClassifyError(error);
  const std::string param = ErrorParamOf(error);
  nlohmann::json body;
  // An error of ours without a code may quote anything; only coded messages come from the closed
  // set.
  body["message"] = ErrorCodeOf(error).empty()
                        ? std::string("the server could not answer this request")
                        : std::string(error.message());
  body["type"] = mapped.type;
  body["param"] = param.empty() ? nlohmann::json() : nlohmann::json(param);
  body["code"] = mapped.code.empty() ? nlohmann::json() : nlohmann::json(mapped.code);
  nlohmann::json result;
  result["error"] = std::move(body);
  return result;
}

HttpResponse ErrorResponse(const absl::Status& error) {
  const HttpError mapped = ClassifyError(error);
  HttpResponse response;
  response.status = mapped.status;
  response.code = error.code();
  response.error_code = mapped.code;
  response.body = Dump(ErrorJson(error));
  if (mapped.retry_after_seconds.has_value()) {
    response.fields.emplace_back("Retry-After", std::to_string(*mapped.retry_after_seconds));
  }
  if (mapped.status == 401) response.fields.emplace_back("WWW-Authenticate", "Bearer");
  response.close = mapped.code == "shutting_down";
  return response;
}

std::string Dump(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace sluice::server
