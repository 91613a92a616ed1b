// A bound port and its accept loop, with a cap on open connections.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/http/async_signal.h"
#include "server/http/connection.h"

namespace sluice::server {

class ServerCore;

struct ListenerSettings {
  std::string flag;  // "--port", for error messages
  std::string host;
  uint16_t port = 0;
  ListenerKind kind = ListenerKind::kApi;
  int max_connections = 0;
  bool use_tls = false;
};

class Listener {
 public:
  // AlreadyExists names the port in use, InvalidArgument the bad address, Unavailable the rest.
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(ServerCore& core,
                                                        ListenerSettings settings);

  // Accepts until Close. I/O thread; the listener outlives the loop.
  asio::awaitable<void> AcceptLoop();
  void Close();
  uint16_t port() const { return port_; }

 private:
  Listener(ServerCore& core, ListenerSettings settings);
  absl::Status Open();
  void Start(asio::ip::tcp::socket socket);

  ServerCore& core_;
  const ListenerSettings settings_;
  asio::ip::tcp::acceptor acceptor_;
  asio::steady_timer retry_;
  uint16_t port_ = 0;
  int num_connections_ = 0;
};

}  // namespace sluice::server
