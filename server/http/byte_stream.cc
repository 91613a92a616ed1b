#include "server/http/byte_stream.h"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>

namespace sluice::server {
namespace {

using asio::redirect_error;
using asio::use_awaitable;
using asio::ip::tcp;

class PlainStream final : public ByteStream {
 public:
  explicit PlainStream(tcp::socket socket) : socket_(std::move(socket)) {}

  asio::awaitable<IoResult> Handshake() override { co_return IoResult{}; }
  asio::awaitable<IoResult> ReadSome(asio::mutable_buffer buffer) override {
    IoResult result;
    result.bytes =
        co_await socket_.async_read_some(buffer, redirect_error(use_awaitable, result.error));
    co_return result;
  }
  asio::awaitable<IoResult> WriteAll(asio::const_buffer buffer) override {
    IoResult result;
    result.bytes =
        co_await asio::async_write(socket_, buffer, redirect_error(use_awaitable, result.error));
    co_return result;
  }
  void ShutdownSend() override {
    boost::system::error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
  }
  void Close() override {
    boost::system::error_code ignored;
    socket_.close(ignored);
  }

 private:
  tcp::socket socket_;
};

class TlsStream final : public ByteStream {
 public:
  TlsStream(tcp::socket socket, std::shared_ptr<asio::ssl::context> context)
      : context_(std::move(context)), stream_(std::move(socket), *context_) {}

  asio::awaitable<IoResult> Handshake() override {
    IoResult result;
    co_await stream_.async_handshake(asio::ssl::stream_base::server,
                                     redirect_error(use_awaitable, result.error));
    co_return result;
  }
  asio::awaitable<IoResult> ReadSome(asio::mutable_buffer buffer) override {
    IoResult result;
    result.bytes =
        co_await stream_.async_read_some(buffer, redirect_error(use_awaitable, result.error));
    co_return result;
  }
  asio::awaitable<IoResult> WriteAll(asio::const_buffer buffer) override {
    IoResult result;
    result.bytes =
        co_await asio::async_write(stream_, buffer, redirect_error(use_awaitable, result.error));
    co_return result;
  }
  // No close_notify: every response states its own length, so truncation shows without it.
  void ShutdownSend() override {
    boost::system::error_code ignored;
    stream_.next_layer().shutdown(tcp::socket::shutdown_send, ignored);
  }
  void Close() override {
    boost::system::error_code ignored;
    stream_.next_layer().close(ignored);
  }

 private:
  std::shared_ptr<asio::ssl::context> context_;  // shared: a reload may replace the server's
  asio::ssl::stream<tcp::socket> stream_;
};

}  // namespace

std::unique_ptr<ByteStream> MakePlainStream(tcp::socket socket) {
  return std::make_unique<PlainStream>(std::move(socket));
}

std::unique_ptr<ByteStream> MakeTlsStream(tcp::socket socket,
                                          std::shared_ptr<asio::ssl::context> context) {
  return std::make_unique<TlsStream>(std::move(socket), std::move(context));
}

}  // namespace sluice::server
