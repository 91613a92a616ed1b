#include "server/commands/serve_process.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/log.h"
#include "engine/version.h"
#include "server/commands/model_loader.h"
#include "server/commands/port_holder.h"
#include "server/commands/signal_queue.h"

namespace sluice::server {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(20);
constexpr absl::Duration kIdleTick = absl::Milliseconds(500);
constexpr absl::Duration kFarewell = absl::Seconds(1);

LogFormat FormatOf(const ServerConfig& config) {
  return config.observability.log_format == "json" ? LogFormat::kJson : LogFormat::kText;
}

LogLevel LevelOf(const ServerConfig& config) {
  const std::string& level = config.observability.log_level;
  if (level == "debug") return LogLevel::kDebug;
  if (level == "warning") return LogLevel::kWarning;
  return level == "error" ? LogLevel::kError : LogLevel::kInfo;
}

void LogHttp(const AccessRecord& record) {
  // Probes and scrapes come every few seconds.
  const bool is_probe = record.route.starts_with("/health") || record.route == "/metrics";
  Log(is_probe ? LogLevel::kDebug : LogLevel::kInfo, "request",
      {{"api", Name(record.api)},
       {"route", record.route},
       {"status", record.status},
       {"code", StatusCodeWord(record.code)},
       {"error", record.error_code},
       {"request_id", record.request_id},
       {"key_id", record.key_id},
       {"prompt_tokens", record.prompt_tokens},
       {"completion_tokens", record.completion_tokens},
       {"ms", absl::ToDoubleMilliseconds(record.duration)}});
}

}  // namespace

ServeProcess::ServeProcess(const ServerConfig& config)
    : config_(config), drain_(clock_, absl::Seconds(config.drain_timeout_seconds)) {
  StartLog(FormatOf(config_), LevelOf(config_));
  report_ = std::make_shared<StartupReport>(FormatOf(config_), isatty(STDERR_FILENO) == 1, clock_);
}

ServeProcess::~ServeProcess() { StopListeners(); }

CommandResult ServeProcess::Run() {
  report_->Line("sluice", Version());
  report_->Line("model", config_.engine.model_directory);
  if (const int code = StartListeners(); code != kExitOk) return {.exit_code = code};
  ModelLoader loader(config_.engine, [report = report_](int64_t done, int64_t total) {
    report->Progress(done, total);
  });
  while (true) {
    if (auto model = loader.TakeResult()) {
      if (const int code = FinishLoading(*std::move(model)); code != kExitOk) {
        return {.exit_code = code};
      }
      return Serve();
    }
    const std::optional<int> signal = NextSignal(kTick);
    if (!signal.has_value()) continue;
    // Nothing can be running yet, so there is nothing to drain.
    if (*signal != SIGHUP) return {.exit_code = kExitOk, .abandons_threads = true};
    Reload();
  }
}

int ServeProcess::Refuse(int exit_code, const std::string& reason) const {
  std::fprintf(stderr, "sluice: %s\n", reason.c_str());
  return exit_code;
}

int ServeProcess::RefusePort(const absl::Status& status) const {
  if (!absl::IsAlreadyExists(status)) {
    return Refuse(absl::IsInvalidArgument(status) ? kExitUsage : kExitInternal,
                  std::string(status.message()));
  }
  const ListenerConfig& listeners = config_.listeners;
  const std::pair<const char*, int32_t> ports[] = {{"--port", listeners.port},
                                                   {"--metrics-port", listeners.metrics_port},
                                                   {"--grpc-port", listeners.grpc_port}};
  // The listener of ours that failed is closed already, and those that work are ours.
  const std::string own = absl::StrCat("process ", getpid(), " ");
  for (const auto& [flag, port] : ports) {
    if (port <= 0) continue;
    const std::optional<std::string> holder = FindPortHolder(port);
    if (!holder.has_value() || holder->starts_with(own)) continue;
    return Refuse(kExitPortInUse, absl::StrCat(flag, ": port ", port, " is in use by ", *holder));
  }
  return Refuse(kExitPortInUse, std::string(status.message()));
}

HttpOptions ServeProcess::MakeHttpOptions() {
  HttpOptions options;
  options.host = config_.listeners.host;
  options.port = static_cast<uint16_t>(config_.listeners.port);
  options.metrics_host = config_.listeners.metrics_host;
  options.metrics_port = config_.listeners.metrics_port;
  options.tls_certificate_file = config_.security.tls_cert;
  options.tls_key_file = config_.security.tls_key;
  options.limits.max_connections = config_.listeners.max_connections;
  options.cors_allow_origin = config_.security.cors_allow_origin;
  options.strict_fields = config_.requests.strict;
  options.allow_routing_trace = config_.requests.allow_routing_trace;
  options.version = Version();
  options.metrics_text = [exporter = exporter_.get()] { return exporter->Render(); };
  options.counters = &counters_;
  options.access_log = LogHttp;
  return options;
}

GrpcOptions ServeProcess::MakeGrpcOptions() const {
  GrpcOptions options;
  options.host = config_.listeners.grpc_host;
  options.port = config_.listeners.grpc_port;
  options.tls_certificate_file = config_.security.tls_cert;
  options.tls_key_file = config_.security.tls_key;
  options.tls_client_ca_file = config_.security.tls_client_ca;
  options.allow_routing_trace = config_.requests.allow_routing_trace;
  return options;
}

int ServeProcess::StartListeners() {
  auto authenticator = Authenticator::Create(config_.security.api_key_file, &clock_);
  if (!authenticator.ok()) {
    return Refuse(kExitUsage, absl::StrCat("--api-key-file: ", authenticator.status().message()));
  }
  authenticator_ = *std::move(authenticator);
  const std::string& experts = config_.observability.expert_metrics;
  exporter_ = std::make_unique<MetricsExporter>(
      MetricsOptions{.vllm_names = config_.observability.metrics_compat == "vllm",
                     .expert_series = experts == "full"  ? ExpertSeries::kFull
                                      : experts == "off" ? ExpertSeries::kOff
                                                         : ExpertSeries::kAuto,
                     .version = Version()},
      counters_, LogLinesDropped);
  auto http = HttpServer::Create(MakeHttpOptions(), authenticator_.get());
  if (!http.ok()) return RefusePort(http.status());
  http_ = *std::move(http);
  if (config_.listeners.grpc_port >= 0) {
    auto grpc = GrpcServer::Create(MakeGrpcOptions(), *authenticator_, counters_);
    if (!grpc.ok()) return RefusePort(grpc.status());
    grpc_ = *std::move(grpc);
  }
  http_->Start();
  const ListenerConfig& listeners = config_.listeners;
  const char* scheme = config_.security.tls_cert.empty() ? "http" : "https";
  report_->Line("http", absl::StrCat(scheme, "://", listeners.host, ":", http_->port()));
  if (grpc_ != nullptr) {
    report_->Line("grpc", absl::StrCat(listeners.grpc_host, ":", grpc_->port()));
  }
  if (listeners.metrics_port >= 0) {
    report_->Line("metrics", absl::StrCat("http://", listeners.metrics_host, ":",
                                          http_->metrics_port(), "/metrics"));
  }
  if (authenticator_->open()) report_->Line("keys", "none: every request is accepted");
  return kExitOk;
}

int ServeProcess::FinishLoading(absl::StatusOr<LoadedModel> model) {
  if (!model.ok()) {
    return Refuse(ExitCodeOfLoadError(model.status()), std::string(model.status().message()));
  }
  StartEngine(*std::move(model));
  return kExitOk;
}

void ServeProcess::StartEngine(LoadedModel model) {
  engine_ = std::make_unique<EngineThread>(config_.engine, std::move(model), clock_);
  const EngineReport& report = engine_->report();
  report_->Engine(report);
  std::vector<std::pair<std::string, std::string>> kernels;
  for (const kernels::KernelChoice& choice : report.kernels) {
    kernels.emplace_back(choice.op, choice.kernel);
  }
  exporter_->SetEngine(engine_.get(), kernels);
  http_->SetEngine(engine_.get());
  if (grpc_ != nullptr) grpc_->SetEngine(engine_.get());
  report_->Ready();
}

CommandResult ServeProcess::Serve() {
  while (true) {
    const bool is_serving = drain_.phase() == Drain::Phase::kServing;
    if (const auto signal = NextSignal(is_serving ? kIdleTick : kTick)) OnSignal(*signal);
    if (EngineFailed()) OnSignal(SIGTERM);
    switch (drain_.Poll(NumActive())) {
      case Drain::Phase::kServing:
      case Drain::Phase::kDraining:
        continue;
      case Drain::Phase::kExitNow:
        Log(LogLevel::kInfo, "exit", {{"reason", "signal"}});
        return {.exit_code = failure_code_, .abandons_threads = true};
      case Drain::Phase::kFinish:
        break;
    }
    Log(LogLevel::kInfo, "drained", {{"timed_out", drain_.timed_out() ? "true" : "false"}});
    if (drain_.timed_out()) EndRequests();
    StopListeners();
    return {.exit_code = failure_code_};
  }
}

void ServeProcess::OnSignal(int number) {
  if (number == SIGHUP) return Reload();
  const Drain::Phase before = drain_.phase();
  const auto signal = number == SIGINT ? Drain::Signal::kInterrupt : Drain::Signal::kTerminate;
  const Drain::Phase after = drain_.OnSignal(signal, NumActive());
  if (before == Drain::Phase::kServing && after == Drain::Phase::kDraining) StartDraining();
}

void ServeProcess::StartDraining() {
  http_->StartDraining();
  if (grpc_ != nullptr) grpc_->StartDraining();
  engine_->StartDraining();
  Log(LogLevel::kInfo, "draining", {{"active", NumActive()}});
}

// Who still waits gets an error, and a moment to read it.
void ServeProcess::EndRequests() {
  engine_->CancelAll("shutdown");
  const absl::Duration give_up = clock_.Now() + kFarewell;
  while (NumActive() > 0 && clock_.Now() < give_up) NextSignal(absl::Milliseconds(10));
}

void ServeProcess::Reload() {
  const absl::Status keys = authenticator_->Reload();
  const absl::Status tls = http_->ReloadTls();  // gRPC watches its files by itself
  Log(keys.ok() && tls.ok() ? LogLevel::kInfo : LogLevel::kError, "reloaded",
      {{"keys", keys.ok() ? "ok" : "kept the old ones"},
       {"certificates", tls.ok() ? "ok" : "kept the old ones"}});
}

bool ServeProcess::EngineFailed() {
  if (failure_code_ != kExitOk || engine_->healthy()) return false;
  const bool is_ours = !engine_->Snapshot().invariant_violations.empty();
  failure_code_ = is_ours ? kExitInternal : kExitDeviceLost;
  if (grpc_ != nullptr) grpc_->SetHealthy(false);
  Log(LogLevel::kError, "engine failed", {{"exit_code", failure_code_}});
  return drain_.phase() == Drain::Phase::kServing;
}

int64_t ServeProcess::NumActive() const {
  return http_->num_active_requests() + (grpc_ == nullptr ? 0 : grpc_->num_active_streams());
}

void ServeProcess::StopListeners() {
  if (grpc_ != nullptr) grpc_->Shutdown(absl::ZeroDuration());
  if (http_ != nullptr) http_->Stop();
}

}  // namespace sluice::server
