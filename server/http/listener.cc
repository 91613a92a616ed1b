#include "server/http/listener.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>

#include "absl/strings/str_cat.h"
#include "engine/status_macros.h"
#include "server/http/server_core.h"

namespace sluice::server {
namespace {

using asio::ip::tcp;

std::string Place(const ListenerSettings& settings) {
  return absl::StrCat(settings.host, ":", settings.port, " (", settings.flag, ")");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(ServerCore& core,
                                                         ListenerSettings settings) {
  std::unique_ptr<Listener> listener(new Listener(core, std::move(settings)));
  RETURN_IF_ERROR(listener->Open());
  return listener;
}

Listener::Listener(ServerCore& core, ListenerSettings settings)
    : core_(core), settings_(std::move(settings)), acceptor_(core.io), retry_(core.io) {}

absl::Status Listener::Open() {
  boost::system::error_code error;
  const std::string host = settings_.host == "localhost" ? "127.0.0.1" : settings_.host;
  const auto address = asio::ip::make_address(host, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat(settings_.host, ": not an IP address to listen on"));
  }
  const tcp::endpoint endpoint(address, settings_.port);
  acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error == asio::error::address_in_use) {
    return absl::AlreadyExistsError(absl::StrCat(Place(settings_), ": the port is in use"));
  }
  if (error) {
    return absl::UnavailableError(absl::StrCat(Place(settings_), ": ", error.message()));
  }
  port_ = acceptor_.local_endpoint(error).port();
  return absl::OkStatus();
}

asio::awaitable<void> Listener::AcceptLoop() {
  while (acceptor_.is_open()) {
    boost::system::error_code error;
    tcp::socket socket(core_.io);
    co_await acceptor_.async_accept(socket, asio::redirect_error(asio::use_awaitable, error));
    if (!error) {
      Start(std::move(socket));
    } else if (error != asio::error::operation_aborted) {
      // Out of descriptors, most likely: wait for some to come back.
      retry_.expires_after(std::chrono::milliseconds(100));
      co_await retry_.async_wait(asio::redirect_error(asio::use_awaitable, error));
    }
  }
}

void Listener::Start(tcp::socket socket) {
  boost::system::error_code ignored;
  if (num_connections_ >= settings_.max_connections || core_.stopping) return;
  socket.set_option(tcp::no_delay(true), ignored);
  const int send_buffer = core_.options.limits.socket_send_buffer_bytes;
  if (send_buffer > 0) {
    socket.set_option(asio::socket_base::send_buffer_size(send_buffer), ignored);
  }
  std::unique_ptr<ByteStream> stream = settings_.use_tls
                                           ? MakeTlsStream(std::move(socket), core_.tls_context())
                                           : MakePlainStream(std::move(socket));
  auto connection = std::make_shared<Connection>(core_, settings_.kind, std::move(stream));
  ++num_connections_;
  asio::co_spawn(core_.io, Connection::Serve(std::move(connection)),
                 [this](const std::exception_ptr&) { --num_connections_; });
}

void Listener::Close() {
  boost::system::error_code ignored;
  acceptor_.close(ignored);
  retry_.cancel();
}

}  // namespace sluice::server
