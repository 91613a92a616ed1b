#include "server/grpc/grpc_server.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <chrono>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/log.h"
#include "engine/status_macros.h"
#include "server/grpc/generation_service.h"
#include "server/grpc/grpc_core.h"
#include "server/grpc/reflection_service.h"

namespace sluice::server {
namespace {

// Certificates are read again this often, so a renewed one needs no restart.
constexpr unsigned kCertificateRefreshSeconds = 10;
constexpr const char* kServiceName = "sluice.v1.GenerationService";

// Both libraries write to standard error on their own, also about what clients send; the log has
// levels.
void RouteLibraryLogs() {
  google::protobuf::SetLogHandler(nullptr);
  gpr_set_log_function([](gpr_log_func_args* line) {
    const bool is_error = line->severity == GPR_LOG_SEVERITY_ERROR;
    Log(is_error ? LogLevel::kWarning : LogLevel::kDebug, "grpc", {{"message", line->message}});
  });
}

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

void SetLimits(const GrpcLimits& limits, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(limits.max_receive_bytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, limits.max_metadata_bytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, Milliseconds(limits.connection_age));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                             Milliseconds(limits.connection_age_grace));
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Milliseconds(limits.handshake));
  // Two servers must not share a port silently.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  grpc::ResourceQuota quota("sluice");
  quota.Resize(limits.max_memory_bytes);
  builder.SetResourceQuota(quota);
}

absl::Status CheckReadable(const std::string& path, const char* flag) {
  if (path.empty() || std::ifstream(path).good()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, ": cannot read the file"));
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(
    const GrpcOptions& options) {
  if (options.tls_certificate_file.empty()) return grpc::InsecureServerCredentials();
  RETURN_IF_ERROR(CheckReadable(options.tls_certificate_file, "--tls-cert"));
  RETURN_IF_ERROR(CheckReadable(options.tls_key_file, "--tls-key"));
  RETURN_IF_ERROR(CheckReadable(options.tls_client_ca_file, "--tls-client-ca"));
  const bool is_mutual = !options.tls_client_ca_file.empty();
  auto files = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      options.tls_key_file, options.tls_certificate_file, options.tls_client_ca_file,
      kCertificateRefreshSeconds);
  grpc::experimental::TlsServerCredentialsOptions tls(files);
  tls.watch_identity_key_cert_pairs();
  if (is_mutual) tls.watch_root_certs();
  tls.set_cert_request_type(is_mutual ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                      : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  return grpc::experimental::TlsServerCredentials(tls);
}

std::string ListenAddress(const std::string& host, int port) {
  const bool is_bare_v6 = absl::StrContains(host, ":") && !absl::StartsWith(host, "[");
  return is_bare_v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

}  // namespace

struct GrpcServer::Parts {
  Parts(GrpcOptions options, Authenticator& authenticator, RequestCounters& counters)
      : core(std::move(options), authenticator, counters), generation(core), reflection(core) {}

  GrpcCore core;
  GenerationService generation;
  ReflectionService reflection;
  std::unique_ptr<grpc::Server> server;  // last: gone before the services

  void SetServing(bool serving) {
    grpc::HealthCheckServiceInterface* health = server->GetHealthCheckService();
    if (health == nullptr) return;
    health->SetServingStatus("", serving);
    health->SetServingStatus(kServiceName, serving);
  }
};

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Create(GrpcOptions options,
                                                               Authenticator& authenticator,
                                                               RequestCounters& counters) {
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ServerCredentials> credentials,
                   MakeCredentials(options));
  RouteLibraryLogs();
  grpc::EnableDefaultHealthCheckService(true);
  auto parts = std::make_unique<Parts>(std::move(options), authenticator, counters);
  grpc::ServerBuilder builder;
  SetLimits(parts->core.options().limits, builder);
  int port = 0;
  builder.AddListeningPort(ListenAddress(parts->core.options().host, parts->core.options().port),
                           credentials, &port);
  builder.RegisterService(&parts->generation);
  builder.RegisterService(&parts->reflection);
  parts->server = builder.BuildAndStart();
  if (parts->server == nullptr || port == 0) {
    return absl::AlreadyExistsError(
        absl::StrCat("--grpc-port: cannot listen on ",
                     ListenAddress(parts->core.options().host, parts->core.options().port)));
  }
  parts->SetServing(false);
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(parts), port));
}

GrpcServer::GrpcServer(std::unique_ptr<Parts> parts, int port)
    : parts_(std::move(parts)), port_(port) {}

GrpcServer::~GrpcServer() { Shutdown(absl::ZeroDuration()); }

void GrpcServer::SetEngine(EngineClient* engine) {
  parts_->core.set_engine(engine);
  parts_->SetServing(engine != nullptr && !parts_->core.draining());
}

void GrpcServer::StartDraining() {
  parts_->core.StartDraining();
  parts_->SetServing(false);
}

void GrpcServer::SetHealthy(bool healthy) {
  parts_->SetServing(healthy && !parts_->core.draining());
}

void GrpcServer::Shutdown(absl::Duration grace) {
  parts_->core.StartDraining();
  parts_->server->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(grace));
  parts_->server->Wait();
}

int64_t GrpcServer::num_active_streams() const { return parts_->core.active_streams(); }

}  // namespace sluice::server
