// One accepted TCP connection, plain or TLS, as coroutines that return error codes. One read and
// one write may be under way at the same time. I/O thread only.
#pragma once

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/system/error_code.hpp>
#include <cstddef>
#include <memory>

#include "server/http/async_signal.h"

namespace sluice::server {

struct IoResult {
  boost::system::error_code error;
  size_t bytes = 0;
};

class ByteStream {
 public:
  virtual ~ByteStream() = default;

  // TLS handshake; immediate success for plain streams.
  virtual asio::awaitable<IoResult> Handshake() = 0;
  virtual asio::awaitable<IoResult> ReadSome(asio::mutable_buffer buffer) = 0;
  virtual asio::awaitable<IoResult> WriteAll(asio::const_buffer buffer) = 0;
  // Tells the peer that nothing more comes; reading goes on.
  virtual void ShutdownSend() = 0;
  // Ends every pending operation with an error.
  virtual void Close() = 0;
};

std::unique_ptr<ByteStream> MakePlainStream(asio::ip::tcp::socket socket);
// The stream keeps `context` alive.
std::unique_ptr<ByteStream> MakeTlsStream(asio::ip::tcp::socket socket,
                                          std::shared_ptr<asio::ssl::context> context);

}  // namespace sluice::server
