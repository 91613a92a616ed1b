// From absl::Status to what a client sees: HTTP status, OpenAI error type, JSON body. The one place
// that knows this mapping (reliability.md section 5).
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "server/http/http_message.h"

namespace sluice::server {

struct HttpError {
  int status;
  const char* type;
  std::string code;  // empty: null
  std::optional<int> retry_after_seconds;
};

HttpError ClassifyError(const absl::Status& error);

// {"error": {"message", "type", "param", "code"}}, all four always present.
nlohmann::json ErrorJson(const absl::Status& error);

// With Retry-After and WWW-Authenticate where they belong.
HttpResponse ErrorResponse(const absl::Status& error);

// JSON text; bytes that are no UTF-8 become U+FFFD.
std::string Dump(const nlohmann::json& value);

}  // namespace sluice::server
