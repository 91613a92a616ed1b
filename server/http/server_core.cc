#include "server/http/server_core.h"

#include "absl/strings/str_format.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"
#include "server/http/tls_context.h"

namespace sluice::server {

ServerCore::ServerCore(HttpOptions http_options, Authenticator* keys)
    : options(std::move(http_options)), authenticator(keys), random(std::random_device{}()) {}

bool ServerCore::draining() const {
  const EngineClient* client = engine();
  return drain_requested.load() || (client != nullptr && client->draining());
}

absl::Status ServerCore::CheckReady() const {
  if (draining()) {
    return RequestError(absl::StatusCode::kUnavailable, "shutting_down", "",
                        "the server is shutting down");
  }
  const EngineClient* client = engine();
  if (client == nullptr) {
    return RequestError(absl::StatusCode::kUnavailable, "model_loading", "",
                        "the model is still loading");
  }
  if (!client->healthy()) {
    return RequestError(absl::StatusCode::kUnavailable, "device_lost", "", "the engine has failed");
  }
  return absl::OkStatus();
}

std::string ServerCore::NewRequestId() {
  const uint64_t high = random();
  const uint64_t low = random();
  return absl::StrFormat("req-%016x%016x", high, low);
}

void ServerCore::CountUnknownField() {
  if (options.counters != nullptr) options.counters->CountUnknownField();
}

std::shared_ptr<asio::ssl::context> ServerCore::tls_context() const {
  const absl::MutexLock lock(&tls_mutex_);
  return tls_;
}

absl::Status ServerCore::ReloadTls() {
  if (options.tls_certificate_file.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::shared_ptr<asio::ssl::context> context,
                   LoadTlsContext(options.tls_certificate_file, options.tls_key_file));
  const absl::MutexLock lock(&tls_mutex_);
  tls_ = std::move(context);
  return absl::OkStatus();
}

}  // namespace sluice::server
