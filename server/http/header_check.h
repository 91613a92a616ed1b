// Strict reading of a raw request head, before any parser interprets it: what two HTTP
// implementations could understand differently is refused. Synchronous and pure.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "server/http/http_options.h"

namespace sluice::server {

// Checks bytes that arrived so far, `text[from..]`, for line ends that are not CR LF and for sizes.
// InvalidArgument `invalid_http`, ResourceExhausted `headers_too_large`, InvalidArgument
// `uri_too_long`.
absl::Status CheckPartialHead(std::string_view text, size_t from, const HttpLimits& limits);

// Checks a whole head, ending in CR LF CR LF: field count, folding, spaces before colons, Host,
// Content-Length against Transfer-Encoding. Codes as above and `bad_host`. A NUL byte inside a
// credential is Unauthenticated `invalid_api_key`.
absl::Status CheckHead(std::string_view head, const HttpLimits& limits);

}  // namespace sluice::server
