// The gRPC front end: listener, limits, TLS, health, reflection and GenerationService. Works
// without an engine while the model loads. Includes no gRPC header, so that main stays quick to
// build. Not for signals, flags or draining policy: main owns those.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine_client.h"
#include "server/auth/authenticator.h"
#include "server/grpc/grpc_options.h"
#include "server/metrics/request_counters.h"

namespace sluice::server {

class GrpcServer {
 public:
  // Binds and starts to answer; health says NOT_SERVING. `authenticator` and `counters` outlive the
  // server. AlreadyExists when the port is in use, InvalidArgument for unreadable TLS files.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Create(GrpcOptions options,
                                                            Authenticator& authenticator,
                                                            RequestCounters& counters);
  // Shuts down without waiting for streams.
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // The engine outlives the server's last call. Until it is set, calls get UNAVAILABLE
  // `model_loading`.
  void SetEngine(EngineClient* engine);
  // Health turns NOT_SERVING and new calls get UNAVAILABLE `shutting_down`; streams go on.
  void StartDraining();
  // Health follows the engine after a device or invariant failure.
  void SetHealthy(bool healthy);
  // Ends what still runs after `grace`, then returns. Idempotent.
  void Shutdown(absl::Duration grace);

  // Generate calls that have not ended.
  int64_t num_active_streams() const;
  int port() const { return port_; }

 private:
  struct Parts;
  GrpcServer(std::unique_ptr<Parts> parts, int port);

  std::unique_ptr<Parts> parts_;
  int port_ = 0;
};

}  // namespace sluice::server
