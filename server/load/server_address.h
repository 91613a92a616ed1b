// Where the server under load is. Plain HTTP only: a generator that encrypts would measure itself.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace sluice::server {

struct ServerAddress {
  std::string host;
  std::string port = "80";
  std::string base_path;  // before /v1/...; empty or "/prefix"

  // "host:port", with brackets around an IPv6 address.
  std::string Authority() const;
};

// "http://HOST[:PORT][/PREFIX][/v1][/]". InvalidArgument says what is wrong.
absl::StatusOr<ServerAddress> ParseServerAddress(std::string_view url);

// True for text that may stand in a header field: printable ASCII without spaces.
bool IsHeaderToken(std::string_view text);

}  // namespace sluice::server
