#include "server/http/http_server.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <thread>
#include <vector>

#include "engine/status_macros.h"
#include "server/http/connection.h"
#include "server/http/listener.h"
#include "server/http/server_core.h"

namespace sluice::server {

struct HttpServer::Threads {
  std::unique_ptr<Listener> api;
  std::unique_ptr<Listener> metrics;
  std::thread io;
  bool stopped = false;
};

HttpServer::HttpServer(std::unique_ptr<ServerCore> core)
    : core_(std::move(core)), threads_(std::make_unique<Threads>()) {}

HttpServer::~HttpServer() { Stop(); }

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Create(HttpOptions options,
                                                               Authenticator* authenticator) {
  std::unique_ptr<HttpServer> server(
      new HttpServer(std::make_unique<ServerCore>(std::move(options), authenticator)));
  ServerCore& core = *server->core_;
  const HttpOptions& settings = core.options;
  RETURN_IF_ERROR(core.ReloadTls());
  ASSIGN_OR_RETURN(server->threads_->api,
                   Listener::Bind(core, {.flag = "--port",
                                         .host = settings.host,
                                         .port = settings.port,
                                         .kind = ListenerKind::kApi,
                                         .max_connections = settings.limits.max_connections,
                                         .use_tls = !settings.tls_certificate_file.empty()}));
  if (settings.metrics_port < 0) return server;
  if (settings.metrics_port > 65'535) {
    return absl::InvalidArgumentError("--metrics-port must be at most 65535");
  }
  ASSIGN_OR_RETURN(server->threads_->metrics,
                   Listener::Bind(core, {.flag = "--metrics-port",
                                         .host = settings.metrics_host,
                                         .port = static_cast<uint16_t>(settings.metrics_port),
                                         .kind = ListenerKind::kMetrics,
                                         .max_connections = settings.limits.max_metrics_connections,
                                         .use_tls = false}));
  return server;
}

void HttpServer::Start() {
  for (Listener* listener : {threads_->api.get(), threads_->metrics.get()}) {
    if (listener == nullptr) continue;
    asio::co_spawn(core_->io, listener->AcceptLoop(), asio::detached);
  }
  threads_->io = std::thread([this] { core_->io.run(); });
}

void HttpServer::Stop() {
  if (threads_->stopped) return;
  threads_->stopped = true;
  asio::post(core_->io, [this] {
    core_->stopping = true;
    for (Listener* listener : {threads_->api.get(), threads_->metrics.get()}) {
      if (listener != nullptr) listener->Close();
    }
    const std::vector<Connection*> open(core_->connections.begin(), core_->connections.end());
    for (Connection* connection : open) connection->Close();
  });
  if (threads_->io.joinable()) threads_->io.join();
}

void HttpServer::SetEngine(EngineClient* engine) { core_->set_engine(engine); }
void HttpServer::StartDraining() { core_->drain_requested.store(true); }
int64_t HttpServer::num_active_requests() const { return core_->num_active.load(); }
absl::Status HttpServer::ReloadTls() { return core_->ReloadTls(); }
uint16_t HttpServer::port() const { return threads_->api->port(); }
uint16_t HttpServer::metrics_port() const {
  return threads_->metrics == nullptr ? uint16_t{0} : threads_->metrics->port();
}

}  // namespace sluice::server
