#include "tests/server/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>

namespace sluice {
namespace {

constexpr int kPatienceSeconds = 20;

std::string Lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

ClientResponse ParseHead(const std::string& head) {
  ClientResponse response;
  if (head.size() > 12) response.status = std::atoi(head.c_str() + 9);
  size_t start = head.find("\r\n") + 2;
  while (start < head.size()) {
    const size_t end = head.find("\r\n", start);
    const std::string line = head.substr(start, end - start);
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) break;
    response.fields[Lower(line.substr(0, colon))] = line.substr(colon + 2);
    start = end + 2;
  }
  return response;
}

}  // namespace

nlohmann::json ClientResponse::Json() const { return nlohmann::json::parse(body, nullptr, false); }

std::string ClientResponse::ErrorCode() const {
  const nlohmann::json json = Json();
  if (!json.is_object() || !json.contains("error")) return "no error: " + body.substr(0, 200);
  const nlohmann::json& code = json["error"]["code"];
  return code.is_string() ? code.get<std::string>() : "null";
}

std::string ClientResponse::ErrorParam() const {
  const nlohmann::json json = Json();
  if (!json.is_object() || !json.contains("error")) return "no error";
  const nlohmann::json& param = json["error"]["param"];
  return param.is_string() ? param.get<std::string>() : "null";
}

std::vector<nlohmann::json> ClientResponse::Events() const {
  std::vector<nlohmann::json> events;
  size_t start = 0;
  while (start < body.size()) {
    const size_t end = body.find("\n\n", start);
    if (end == std::string::npos) break;
    const std::string event = body.substr(start, end - start);
    start = end + 2;
    if (event.rfind("data: ", 0) != 0 || event == "data: [DONE]") continue;
    events.push_back(nlohmann::json::parse(event.substr(6), nullptr, false));
  }
  return events;
}

HttpClient::HttpClient(uint16_t port, int receive_buffer_bytes) {
  fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
  if (receive_buffer_bytes > 0) {
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(receive_buffer_bytes));
  }
  const timeval patience = {.tv_sec = kPatienceSeconds, .tv_usec = 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) Close();
}

HttpClient::~HttpClient() { Close(); }

bool HttpClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool HttpClient::Fill() {
  std::array<char, 65536> bytes;
  const ssize_t received = ::recv(fd_, bytes.data(), bytes.size(), 0);
  if (received <= 0) return false;
  buffer_.append(bytes.data(), static_cast<size_t>(received));
  return true;
}

bool HttpClient::ReadUntil(std::string_view marker) {
  while (true) {
    const size_t at = buffer_.find(marker);
    if (at != std::string::npos) {
      buffer_.erase(0, at + marker.size());
      return true;
    }
    if (!Fill()) return false;
  }
}

ClientResponse HttpClient::ReadResponse(bool head_only) {
  size_t end = 0;
  while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
    if (!Fill()) return {};
  }
  ClientResponse response = ParseHead(buffer_.substr(0, end + 4));
  buffer_.erase(0, end + 4);
  if (head_only || response.status == 100 || response.status == 204) return response;
  if (response.fields.count("content-length") > 0) {
    const auto length = static_cast<size_t>(std::atoll(response.fields["content-length"].c_str()));
    while (buffer_.size() < length) {
      if (!Fill()) return {};
    }
    response.body = buffer_.substr(0, length);
    buffer_.erase(0, length);
    return response;
  }
  if (response.fields.count("transfer-encoding") == 0) {
    while (Fill()) {
    }
    response.body = std::move(buffer_);
    buffer_.clear();
    return response;
  }
  while (true) {
    while ((end = buffer_.find("\r\n")) == std::string::npos) {
      if (!Fill()) return {};
    }
    const auto size = static_cast<size_t>(std::strtoull(buffer_.c_str(), nullptr, 16));
    while (buffer_.size() < end + 2 + size + 2) {
      if (!Fill()) return {};
    }
    response.body += buffer_.substr(end + 2, size);
    buffer_.erase(0, end + 2 + size + 2);
    if (size == 0) return response;
  }
}

bool HttpClient::AtEnd() {
  while (Fill()) {
  }
  return errno != EAGAIN && errno != EWOULDBLOCK;
}

void HttpClient::ShutdownSend() { ::shutdown(fd_, SHUT_WR); }

void HttpClient::Close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void HttpClient::Reset() {
  const linger hard = {.l_onoff = 1, .l_linger = 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  Close();
}

std::string PostText(std::string_view path, std::string_view body, std::string_view fields) {
  std::string text = "POST ";
  text.append(path).append(" HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n");
  text.append(fields).append("Content-Length: ").append(std::to_string(body.size()));
  return text.append("\r\n\r\n").append(body);
}

ClientResponse Post(uint16_t port,
                    std::string_view path,
                    std::string_view body,
                    std::string_view fields) {
  HttpClient client(port);
  client.Send(PostText(path, body, fields));
  return client.ReadResponse();
}

ClientResponse Get(uint16_t port,
                   std::string_view path,
                   std::string_view fields,
                   std::string_view method) {
  HttpClient client(port);
  std::string text(method);
  text.append(" ").append(path).append(" HTTP/1.1\r\nHost: test\r\n").append(fields);
  client.Send(text.append("\r\n"));
  return client.ReadResponse(method == "HEAD");
}

}  // namespace sluice
