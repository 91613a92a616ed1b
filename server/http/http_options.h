// What can be set about the HTTP front end, and what it reports about each request. Plain data.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/metrics/request_counters.h"

namespace sluice::server {

struct HttpLimits {
  size_t max_body_bytes = 8 << 20;
  size_t max_chunks = 65'536;
  size_t max_head_bytes = 16 << 10;
  size_t max_header_fields = 100;
  size_t max_target_bytes = 8 << 10;
  size_t max_body_bytes_in_flight = 512 << 20;  // of all connections together
  int max_connections = 4096;
  int max_metrics_connections = 64;
  size_t stream_buffer_bytes = 256 << 10;
  int socket_send_buffer_bytes = 0;  // 0: the system's choice
};

struct HttpTimeouts {
  absl::Duration head = absl::Seconds(10);
  absl::Duration body_window = absl::Seconds(10);  // at least 1 KiB/s averaged over this
  absl::Duration keep_alive_idle = absl::Seconds(60);
  absl::Duration tls_handshake = absl::Seconds(10);
  absl::Duration write_stall = absl::Seconds(30);
  absl::Duration slow_reader = absl::Seconds(30);
  absl::Duration ping = absl::Seconds(15);
  absl::Duration linger = absl::Seconds(2);  // reading on after an early error, so that it arrives
};

// One finished request. Labels are from closed sets; the id is the client's or ours.
struct AccessRecord {
  std::string request_id;
  std::string method;
  std::string route;  // the pattern of the routing table, "_unknown" otherwise
  Api api = Api::kOther;
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string error_code;  // "queue_full"; empty when fine
  std::string key_id;
  int status = 0;  // 499: the client went away
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  absl::Duration duration;
};

struct HttpOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8080;  // 0: any free port
  std::string metrics_host = "127.0.0.1";
  int metrics_port = 9100;           // 0: any free port; -1: no metrics listener
  std::string tls_certificate_file;  // PEM chain; empty: plain HTTP
  std::string tls_key_file;
  HttpLimits limits;
  HttpTimeouts timeouts;
  std::string cors_allow_origin;  // empty: no CORS; "*" or one origin
  bool strict_fields = false;
  bool allow_routing_trace = false;
  std::string version = "0.1.0";
  RequestCounters* counters = nullptr;                  // outlives the server; may be absent
  std::function<std::string()> metrics_text;            // body of /metrics; any thread
  std::function<void(const AccessRecord&)> access_log;  // on the I/O thread; must not block
};

}  // namespace sluice::server
