// One running `sluice serve`: listeners first, then the model, then requests until a signal, then
// the drain. Ties the parts together; every decision of its own is in Drain.
#pragma once

#include <memory>
#include <string>

#include "engine/clock.h"
#include "engine/engine_thread.h"
#include "server/auth/authenticator.h"
#include "server/commands/commands.h"
#include "server/commands/startup_report.h"
#include "server/drain.h"
#include "server/grpc/grpc_server.h"
#include "server/http/http_server.h"
#include "server/metrics/metrics_exporter.h"
#include "server/metrics/request_counters.h"

namespace sluice::server {

class ServeProcess {
 public:
  explicit ServeProcess(const ServerConfig& config);
  ~ServeProcess();

  CommandResult Run();

 private:
  // kExitOk, or the code to end with; the reason has been printed.
  int StartListeners();
  int FinishLoading(absl::StatusOr<LoadedModel> model);
  void StartEngine(LoadedModel model);
  CommandResult Serve();
  void OnSignal(int number);
  void StartDraining();
  void Reload();
  // Notices a failed engine; returns true once.
  bool EngineFailed();
  int64_t NumActive() const;
  void EndRequests();
  void StopListeners();
  HttpOptions MakeHttpOptions();
  GrpcOptions MakeGrpcOptions() const;
  int Refuse(int exit_code, const std::string& reason) const;
  int RefusePort(const absl::Status& status) const;

  const ServerConfig config_;
  const SteadyClock clock_;
  std::shared_ptr<StartupReport> report_;  // shared with the loading thread
  RequestCounters counters_;
  Drain drain_;
  std::unique_ptr<Authenticator> authenticator_;
  std::unique_ptr<MetricsExporter> exporter_;
  std::unique_ptr<EngineThread> engine_;  // outlives the servers: declared before them
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<GrpcServer> grpc_;
  int failure_code_ = kExitOk;
};

}  // namespace sluice::server
