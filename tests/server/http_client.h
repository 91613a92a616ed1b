// A blocking HTTP/1 client on a raw socket, for tests that must control every byte.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "nlohmann/json.hpp"

namespace sluice {

struct ClientResponse {
  int status = 0;                             // 0: the connection ended before a whole response
  std::map<std::string, std::string> fields;  // names in lower case
  std::string body;                           // without chunk framing

  nlohmann::json Json() const;
  // error.code, or "null".
  std::string ErrorCode() const;
  std::string ErrorParam() const;
  // The JSON of each SSE event but [DONE]; comments are left out.
  std::vector<nlohmann::json> Events() const;
};

class HttpClient {
 public:
  explicit HttpClient(uint16_t port, int receive_buffer_bytes = 0);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // False when the peer no longer takes bytes.
  bool Send(std::string_view bytes);
  ClientResponse ReadResponse(bool head_only = false);
  // Reads until `marker` has been seen; false at the end of the connection.
  bool ReadUntil(std::string_view marker);
  // True when the peer ends the connection within the client's patience (20 s).
  bool AtEnd();
  void ShutdownSend();
  void Close();
  void Reset();  // RST instead of FIN

 private:
  bool Fill();

  int fd_ = -1;
  std::string buffer_;
};

std::string PostText(std::string_view path, std::string_view body, std::string_view fields = "");
ClientResponse Post(uint16_t port,
                    std::string_view path,
                    std::string_view body,
                    std::string_view fields = "");
ClientResponse Get(uint16_t port,
                   std::string_view path,
                   std::string_view fields = "",
                   std::string_view method = "GET");

}  // namespace sluice
