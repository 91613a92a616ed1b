// What every connection and route shares. Created by HttpServer; routes only read it. Members are
// used on the I/O thread unless they are atomic.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine_client.h"
#include "server/auth/authenticator.h"
#include "server/http/http_options.h"
#include "server/http/routing_view.h"
#include "server/http/text_thread.h"

namespace sluice::server {

class Connection;

class ServerCore {
 public:
  ServerCore(HttpOptions http_options, Authenticator* keys);

  // Unavailable `model_loading`, `shutting_down` or `device_lost`; OK when work can be taken.
  absl::Status CheckReady() const;
  bool draining() const;
  EngineClient* engine() const { return engine_.load(std::memory_order_acquire); }
  void set_engine(EngineClient* engine) { engine_.store(engine, std::memory_order_release); }

  // "req-" and 32 hexadecimal digits. I/O thread.
  std::string NewRequestId();
  void CountUnknownField();

  // The context for new connections; null without TLS. Any thread.
  std::shared_ptr<asio::ssl::context> tls_context() const;
  absl::Status ReloadTls();

  const HttpOptions options;
  Authenticator* const authenticator;
  asio::io_context io{1};
  TextThread text;
  RoutingView routing_view;
  std::atomic<bool> drain_requested{false};
  std::atomic<int64_t> num_active{0};
  size_t body_bytes_in_flight = 0;
  std::set<Connection*> connections;
  bool stopping = false;
  std::mt19937_64 random;

 private:
  std::atomic<EngineClient*> engine_{nullptr};
  mutable absl::Mutex tls_mutex_;
  std::shared_ptr<asio::ssl::context> tls_ ABSL_GUARDED_BY(tls_mutex_);
};

}  // namespace sluice::server
