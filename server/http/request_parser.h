// Bytes of one HTTP/1 request to an HttpRequest, piece by piece: the strict head check, Beast's
// parser for the head, our decoder for chunks. Synchronous: no sockets, no clock, so that it can be
// fuzzed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/http/chunk_decoder.h"
#include "server/http/http_message.h"
#include "server/http/http_options.h"

namespace sluice::server {

class RequestParser {
 public:
  explicit RequestParser(const HttpLimits& limits);
  ~RequestParser();

  // Takes what belongs to the request off the front of `input`; true when the part is complete.
  // After an error the connection cannot go on: where the next request starts is unknown.
  absl::StatusOr<bool> ParseHead(std::string& input);
  absl::StatusOr<bool> ParseBody(std::string& input);

  HttpRequest& request() { return request_; }
  // Content-Length, when there is one.
  std::optional<uint64_t> declared_length() const { return declared_length_; }

 private:
  class HeadParser;

  absl::Status FinishHead();

  HttpLimits limits_;
  HttpRequest request_;
  std::optional<uint64_t> declared_length_;
  size_t checked_bytes_ = 0;  // of a partial head
  std::unique_ptr<HeadParser> parser_;
  ChunkDecoder chunks_;
};

}  // namespace sluice::server
