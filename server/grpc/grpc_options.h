// What can be set about the gRPC front end. Plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace sluice::server {

struct GrpcLimits {
  int max_receive_bytes = 8 << 20;
  int max_metadata_bytes = 16 << 10;
  int max_concurrent_streams = 100;  // per connection
  size_t max_memory_bytes = 512 << 20;
  size_t stream_buffer_bytes = 256 << 10;
  absl::Duration slow_reader = absl::Seconds(30);
  absl::Duration handshake = absl::Seconds(10);
  absl::Duration connection_age = absl::Minutes(30);
  absl::Duration connection_age_grace = absl::Minutes(10);
  int64_t min_window_rows = 1000;  // of WatchRouting
};

struct GrpcOptions {
  std::string host = "127.0.0.1";
  int port = 8081;                   // 0: any free one
  std::string tls_certificate_file;  // PEM chain; empty: plain text
  std::string tls_key_file;
  std::string tls_client_ca_file;  // empty: clients need no certificate
  bool allow_routing_trace = false;
  GrpcLimits limits;
};

}  // namespace sluice::server
