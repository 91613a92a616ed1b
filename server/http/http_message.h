// A parsed request and a response before it is written. Plain data plus the text of a response
// head.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace sluice::server {

struct HttpRequest {
  std::string method;
  std::string path;                                         // without the query
  std::vector<std::pair<std::string, std::string>> fields;  // names in lower case
  std::string body;
  bool is_http11 = true;
  bool keep_alive = true;
  bool has_body = false;
  bool expects_continue = false;

  // The first value of a field given in lower case, or empty.
  std::string_view Field(std::string_view name) const;
  bool HasField(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> fields;
  absl::StatusCode code = absl::StatusCode::kOk;  // for the access log and counters
  std::string error_code;                         // likewise; "queue_full"
  bool close = false;                             // ends the connection after this response
};

// Status line and fields up to the empty line. `length_field` is "Content-Length: 5" or
// "Transfer-Encoding: chunked", or empty for a body that ends with the connection.
std::string ResponseHead(const HttpResponse& response,
                         std::string_view length_field,
                         bool keep_alive);

std::string_view ReasonPhrase(int status);

}  // namespace sluice::server
