// The HTTP front end: an API listener and a metrics listener on one I/O thread, and one text thread
// for JSON, templates and tokenizing. Works without an engine while the model loads. Not for
// signals, flags or draining policy: main owns those.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine_client.h"
#include "server/auth/authenticator.h"
#include "server/http/http_options.h"

namespace sluice::server {

class ServerCore;

class HttpServer {
 public:
  // Binds both ports and loads the certificate; nothing is answered before Start. `authenticator`
  // outlives the server. AlreadyExists names a port in use, Unavailable any other bind failure,
  // InvalidArgument a bad address, certificate or key.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Create(HttpOptions options,
                                                            Authenticator* authenticator);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Starts the I/O and text threads.
  void Start();
  // Closes every connection, cancels their requests and joins the threads. Idempotent.
  void Stop();

  // The engine outlives the server's last request. Until it is set /health/live answers 200 and
  // everything that needs a model 503 `model_loading`.
  void SetEngine(EngineClient* engine);
  // New work is answered 503 `shutting_down`; streams go on. Implied by engine->draining().
  void StartDraining();
  // Requests that are being answered now, on the API listener.
  int64_t num_active_requests() const;

  // Loads the certificate and key again for new connections; on an error the old ones stay.
  absl::Status ReloadTls();

  uint16_t port() const;
  uint16_t metrics_port() const;  // 0 without a metrics listener

 private:
  explicit HttpServer(std::unique_ptr<ServerCore> core);

  struct Threads;
  std::unique_ptr<ServerCore> core_;
  std::unique_ptr<Threads> threads_;
};

}  // namespace sluice::server
