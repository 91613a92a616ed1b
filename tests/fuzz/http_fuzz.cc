// Bytes of an HTTP/1 connection, in pieces whose size the first byte gives: requests one after the
// other until an error ends the connection. Whatever arrives, limits hold and the result does not
// depend on how the bytes were cut.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/check.h"
#include "server/http/http_options.h"
#include "server/http/request_parser.h"

namespace {

using sluice::server::HttpLimits;
using sluice::server::RequestParser;

HttpLimits SmallLimits() {
  HttpLimits limits;
  limits.max_body_bytes = 512;
  limits.max_head_bytes = 1024;
  limits.max_target_bytes = 256;
  limits.max_header_fields = 16;
  limits.max_chunks = 8;
  return limits;
}

// Bodies of the requests that were read, and "!" when an error ended the connection.
std::vector<std::string> ReadAll(std::string_view bytes, size_t piece) {
  const HttpLimits limits = SmallLimits();
  std::vector<std::string> bodies;
  std::string input;
  auto parser = std::make_unique<RequestParser>(limits);
  bool in_body = false;
  while (true) {
    const auto done = in_body ? parser->ParseBody(input) : parser->ParseHead(input);
    if (!done.ok()) {
      bodies.emplace_back("!");
      return bodies;
    }
    if (*done && in_body) {
      SLUICE_CHECK(parser->request().body.size() <= limits.max_body_bytes);
      bodies.push_back(parser->request().body);
      parser = std::make_unique<RequestParser>(limits);
    }
    if (*done) {
      in_body = !in_body;
      continue;
    }
    if (bytes.empty()) return bodies;
    input.append(bytes.substr(0, piece));
    bytes.remove_prefix(std::min(piece, bytes.size()));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto whole = ReadAll(bytes, bytes.size() + 1);
  SLUICE_CHECK(ReadAll(bytes, 1 + data[0]) == whole);
  return 0;
}
