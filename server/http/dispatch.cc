#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"
#include "server/http/exchange.h"
#include "server/http/openai_errors.h"

namespace sluice::server {
namespace {

constexpr std::string_view kModelPart = "{model}";
constexpr size_t kMaxRequestIdBytes = 128;

// What the client may choose as its request id: nothing that could break a header or a log line.
std::string RequestId(Exchange& exchange) {
  const std::string_view given = exchange.request.Field("x-request-id");
  const bool usable = !given.empty() && given.size() <= kMaxRequestIdBytes &&
                      std::all_of(given.begin(), given.end(), [](char c) {
                        return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' ||
                               c == '_' || c == '.' || c == ':';
                      });
  return usable ? std::string(given) : exchange.core.NewRequestId();
}

// For the access log: the client's own words stay out of it.
std::string KnownMethod(const std::string& method) {
  for (const char* known : {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}) {
    if (method == known) return method;
  }
  return "_other";
}

bool Matches(const Route& route, std::string_view path, std::string* argument) {
  if (route.path == path) return true;
  if (route.path.size() <= kModelPart.size() ||
      route.path.substr(route.path.size() - kModelPart.size()) != kModelPart) {
    return false;
  }
  const std::string_view prefix = route.path.substr(0, route.path.size() - kModelPart.size());
  if (path.size() <= prefix.size() || path.substr(0, prefix.size()) != prefix) return false;
  *argument = std::string(path.substr(prefix.size()));
  return true;
}

struct RouteMatch {
  const Route* route = nullptr;
  std::vector<std::string> allowed;  // methods of the path, for 405 and CORS
};

RouteMatch FindRoute(Exchange& exchange) {
  RouteMatch match;
  const std::string& method = exchange.request.method;
  for (const Route& route : Routes()) {
    if (exchange.connection.kind() == ListenerKind::kMetrics && !route.on_metrics_listener) {
      continue;
    }
    if (!Matches(route, exchange.request.path, &exchange.path_argument)) continue;
    match.allowed.emplace_back(route.method);
    if (route.method == "GET") match.allowed.emplace_back("HEAD");
    exchange.record.route = std::string(route.path);
    exchange.record.api = route.api;
    if (method == route.method || (method == "HEAD" && route.method == "GET")) {
      match.route = &route;
    }
  }
  return match;
}

absl::Status CheckAccess(Exchange& exchange, Access access) {
  if (access == Access::kOpen || exchange.connection.kind() == ListenerKind::kMetrics) {
    return absl::OkStatus();
  }
  std::string_view key = BearerToken(exchange.request.Field("authorization"));
  if (key.empty()) key = exchange.request.Field("x-api-key");
  ASSIGN_OR_RETURN(exchange.principal, exchange.core.authenticator->Authenticate(key));
  exchange.record.key_id = exchange.principal.key_id;
  if (access == Access::kAdmin && !exchange.principal.admin) {
    return RequestError(absl::StatusCode::kPermissionDenied, "admin_key_required", "",
                        "this address needs the admin key");
  }
  return absl::OkStatus();
}

absl::Status CheckBodyFields(const HttpRequest& request) {
  const std::string encoding =
      absl::AsciiStrToLower(std::string(request.Field("content-encoding")));
  if (!encoding.empty() && encoding != "identity") {
    return RequestError(absl::StatusCode::kUnimplemented, "unsupported_encoding", "",
                        "compressed request bodies are not accepted");
  }
  std::string type(request.Field("content-type"));
  type = absl::AsciiStrToLower(type.substr(0, type.find(';')));
  const bool has_nothing = !request.has_body && type.empty();  // no JSON either, says the route
  if (request.method != "POST" || has_nothing ||
      absl::StripAsciiWhitespace(type) == "application/json") {
    return absl::OkStatus();
  }
  return BadRequest("unsupported_media_type", "", "Content-Type must be application/json");
}

absl::Status CheckRequest(Exchange& exchange, const RouteMatch& match) {
  // Deny by default: without a key not even the existence of a path is told.
  const Access access = match.route == nullptr ? Access::kKey : match.route->access;
  RETURN_IF_ERROR(CheckAccess(exchange, access));
  if (match.route == nullptr && match.allowed.empty()) {
    return RequestError(absl::StatusCode::kNotFound, "unknown_url", "", "there is nothing here");
  }
  if (match.route == nullptr) {
    return RequestError(absl::StatusCode::kUnimplemented, "method_not_allowed", "",
                        "this address does not take this method");
  }
  if (match.route->needs_engine) RETURN_IF_ERROR(exchange.core.CheckReady());
  return CheckBodyFields(exchange.request);
}

bool IsPreflight(const Exchange& exchange) {
  return !exchange.core.options.cors_allow_origin.empty() && exchange.request.method == "OPTIONS" &&
         exchange.request.HasField("origin") &&
         exchange.request.HasField("access-control-request-method");
}

HttpResponse PreflightResponse(const RouteMatch& match) {
  HttpResponse response;
  response.status = 204;
  response.content_type.clear();
  response.fields.emplace_back("Access-Control-Allow-Methods", absl::StrJoin(match.allowed, ", "));
  response.fields.emplace_back("Access-Control-Allow-Headers",
                               "authorization, content-type, x-api-key, x-request-id");
  response.fields.emplace_back("Access-Control-Max-Age", "600");
  return response;
}

HttpResponse Refusal(const absl::Status& error, const HttpRequest& request, bool body_read) {
  HttpResponse response = ErrorResponse(error);
  // Where an unread body ends is not worth finding out.
  if (request.has_body && !body_read) response.close = true;
  return response;
}

asio::awaitable<absl::Status> ReceiveBody(Exchange& exchange) {
  constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
  const size_t limit = exchange.core.options.limits.max_body_bytes;
  const bool may_fit = exchange.parser.declared_length().value_or(0) <= limit;
  if (exchange.request.expects_continue && may_fit) {
    const bool written = co_await exchange.connection.Write(kContinue);
    if (!written) co_return absl::CancelledError("the client went away");
  }
  co_return co_await exchange.connection.ReadBody(exchange.parser);
}

}  // namespace

void AddCorsFields(Exchange& exchange, HttpResponse& response) {
  const std::string& allowed = exchange.core.options.cors_allow_origin;
  if (allowed.empty() || !exchange.request.HasField("origin")) return;
  response.fields.emplace_back("Access-Control-Allow-Origin", allowed);
  response.fields.emplace_back("Access-Control-Expose-Headers", "x-request-id, Retry-After");
  if (allowed != "*") response.fields.emplace_back("Vary", "Origin");
}

asio::awaitable<HttpResponse> Dispatch(Exchange& exchange) {
  exchange.record.request_id = RequestId(exchange);
  exchange.record.method = KnownMethod(exchange.request.method);
  exchange.record.route = "_unknown";
  const RouteMatch match = FindRoute(exchange);
  HttpResponse response;
  absl::Status status;
  if (IsPreflight(exchange) && !match.allowed.empty()) {
    response = PreflightResponse(match);
  } else {
    status = CheckRequest(exchange, match);
    bool body_read = false;
    if (status.ok() && exchange.request.has_body) {
      status = co_await ReceiveBody(exchange);
      body_read = status.ok();
    }
    if (status.ok()) {
      response = co_await match.route->run(exchange);
    } else {
      response = Refusal(status, exchange.request, body_read);
    }
    if (response.status == 405) {
      response.fields.emplace_back("Allow", absl::StrJoin(match.allowed, ", "));
    }
  }
  AddCorsFields(exchange, response);
  co_return response;
}

}  // namespace sluice::server
