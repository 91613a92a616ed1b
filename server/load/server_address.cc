#include "server/load/server_address.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace sluice::server {
namespace {

constexpr std::string_view kScheme = "http://";

bool IsPort(const std::string& text) {
  int32_t port = 0;
  const bool digits =
      std::all_of(text.begin(), text.end(), [](char c) { return '0' <= c && c <= '9'; });
  return digits && absl::SimpleAtoi(text, &port) && port >= 1 && port <= 65535;
}

// "/prefix/v1/" to "/prefix": clients are often given the address with /v1.
std::string BasePath(std::string_view path) {
  while (path.ends_with('/')) path.remove_suffix(1);
  if (path.ends_with("/v1")) path.remove_suffix(3);
  return std::string(path);
}

}  // namespace

std::string ServerAddress::Authority() const {
  const bool is_v6 = host.find(':') != std::string::npos;
  return is_v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

bool IsHeaderToken(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < '\x7f'; });
}

absl::StatusOr<ServerAddress> ParseServerAddress(std::string_view url) {
  if (url.starts_with("https://")) {
    return absl::InvalidArgumentError("https is not supported; measure without TLS");
  }
  if (!url.starts_with(kScheme)) {
    return absl::InvalidArgumentError("expected an address such as http://127.0.0.1:8080");
  }
  url.remove_prefix(kScheme.size());
  if (!IsHeaderToken(url) || url.find_first_of("?#@\\") != std::string_view::npos) {
    return absl::InvalidArgumentError("the address has a character that is not allowed there");
  }
  const size_t slash = std::min(url.find('/'), url.size());
  std::string_view authority = url.substr(0, slash);
  ServerAddress address{.base_path = BasePath(url.substr(slash))};
  std::string_view rest;  // ":port" or nothing
  if (authority.starts_with('[')) {
    const size_t close = authority.find(']');
    if (close == std::string_view::npos) {
      return absl::InvalidArgumentError("the address has [ without ]");
    }
    address.host = authority.substr(1, close - 1);
    rest = authority.substr(close + 1);
  } else {
    const size_t colon = std::min(authority.find(':'), authority.size());
    address.host = authority.substr(0, colon);
    rest = authority.substr(colon);
  }
  if (address.host.empty()) return absl::InvalidArgumentError("the address has no host");
  if (!rest.empty()) {
    address.port = rest.substr(1);
    if (!rest.starts_with(':') || !IsPort(address.port)) {
      return absl::InvalidArgumentError("the port must be a number from 1 to 65535");
    }
  }
  return address;
}

}  // namespace sluice::server
