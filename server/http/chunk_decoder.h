// The chunked transfer coding (RFC 9112, section 7.1), strictly: CR LF line ends, hexadecimal
// sizes, bounded extensions and trailers, both ignored. Beast's own decoder asserts on some cut
// inputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/http/http_options.h"

namespace sluice::server {

class ChunkDecoder {
 public:
  explicit ChunkDecoder(const HttpLimits& limits) : limits_(limits) {}

  // Moves what is decodable off the front of `input` to the end of `body`; true at the end of the
  // coding. InvalidArgument `invalid_http`, ResourceExhausted `content_too_large`.
  absl::StatusOr<bool> Decode(std::string& input, std::string& body);

 private:
  enum class State : uint8_t { kSize, kData, kDataEnd, kTrailer, kDone };

  // Takes one line without its end out of input[at..]; false when it is not complete.
  static absl::StatusOr<bool> TakeLine(const std::string& input, size_t& at, std::string& line);
  absl::Status StartChunk(const std::string& line, size_t body_bytes);
  absl::StatusOr<bool> Step(const std::string& input, size_t& at, std::string& body);
  absl::Status TakeTrailer(const std::string& line);

  const HttpLimits limits_;
  State state_ = State::kSize;
  uint64_t left_ = 0;  // of the current chunk
  size_t num_chunks_ = 0;
  size_t num_trailers_ = 0;
};

}  // namespace sluice::server
