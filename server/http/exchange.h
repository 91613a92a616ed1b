// One request on its way through a route, and the signature of routes. I/O thread only.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "server/auth/authenticator.h"
#include "server/http/connection.h"
#include "server/http/http_message.h"
#include "server/http/http_options.h"
#include "server/http/request_parser.h"
#include "server/http/server_core.h"

namespace sluice::server {

struct Exchange {
  ServerCore& core;
  Connection& connection;
  RequestParser& parser;
  HttpRequest& request;
  Principal principal;
  AccessRecord record;
  std::string path_argument;  // what {model} stands for
  bool streamed = false;      // the route has written its own response
  bool keep_alive = true;     // after a streamed response
};

enum class Access : uint8_t { kOpen, kKey, kAdmin };

using RouteFunction = asio::awaitable<HttpResponse> (*)(Exchange&);

struct Route {
  std::string_view method;
  std::string_view path;  // a last part "{model}" takes the rest
  Access access;
  bool needs_engine;  // 503 while loading or draining
  bool on_metrics_listener;
  Api api;
  RouteFunction run;
};

// The routing table: every path the server answers.
std::span<const Route> Routes();

// Looks up the route, checks access, readiness and body, and runs it. Fills the exchange's record.
asio::awaitable<HttpResponse> Dispatch(Exchange& exchange);

// What a browser needs to read the response, when that is switched on.
void AddCorsFields(Exchange& exchange, HttpResponse& response);

}  // namespace sluice::server
