#include "server/http/chunk_decoder.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"

namespace sluice::server {
namespace {

constexpr size_t kMaxLineBytes = 4096;
constexpr size_t kMaxSizeDigits = 15;  // no 64-bit overflow

absl::Status BadChunk() { return BadRequest("invalid_http", "", "bad chunked body"); }

absl::Status TooLarge() {
  return RequestError(absl::StatusCode::kResourceExhausted, "content_too_large", "",
                      "the request body is too large");
}

bool IsControl(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && byte != '\t') || byte == 0x7f;
}

}  // namespace

absl::StatusOr<bool> ChunkDecoder::Decode(std::string& input, std::string& body) {
  size_t at = 0;
  bool progress = true;
  while (progress && state_ != State::kDone) {
    ASSIGN_OR_RETURN(progress, Step(input, at, body));
  }
  input.erase(0, at);
  return state_ == State::kDone;
}

absl::StatusOr<bool> ChunkDecoder::Step(const std::string& input, size_t& at, std::string& body) {
  if (state_ == State::kData) {
    const size_t count = static_cast<size_t>(std::min<uint64_t>(left_, input.size() - at));
    body.append(input, at, count);
    at += count;
    left_ -= count;
    if (left_ == 0) state_ = State::kDataEnd;
    return count > 0;
  }
  std::string line;
  ASSIGN_OR_RETURN(const bool complete, TakeLine(input, at, line));
  if (!complete) return false;
  if (state_ == State::kSize) {
    RETURN_IF_ERROR(StartChunk(line, body.size()));
  } else if (state_ == State::kDataEnd) {
    if (!line.empty()) return BadChunk();
    state_ = State::kSize;
  } else {
    RETURN_IF_ERROR(TakeTrailer(line));
  }
  return true;
}

absl::StatusOr<bool> ChunkDecoder::TakeLine(const std::string& input,
                                            size_t& at,
                                            std::string& line) {
  const size_t end = input.find('\n', at);
  const size_t length = (end == std::string::npos ? input.size() : end) - at;
  if (length > kMaxLineBytes) return BadChunk();
  if (end == std::string::npos) return false;
  if (length == 0 || input[end - 1] != '\r') return BadChunk();
  line.assign(input, at, length - 1);
  if (std::any_of(line.begin(), line.end(), IsControl)) return BadChunk();
  at = end + 1;
  return true;
}

absl::Status ChunkDecoder::StartChunk(const std::string& line, size_t body_bytes) {
  size_t digits = 0;
  left_ = 0;
  while (digits < line.size() && absl::ascii_isxdigit(static_cast<unsigned char>(line[digits]))) {
    const char c = absl::ascii_tolower(static_cast<unsigned char>(line[digits]));
    left_ = left_ * 16 + static_cast<uint64_t>(c <= '9' ? c - '0' : c - 'a' + 10);
    if (++digits > kMaxSizeDigits) return TooLarge();
  }
  if (digits == 0 || (digits < line.size() && line[digits] != ';')) return BadChunk();
  if (left_ == 0) {
    state_ = State::kTrailer;
    return absl::OkStatus();
  }
  if (++num_chunks_ > limits_.max_chunks || left_ > limits_.max_body_bytes - body_bytes) {
    return TooLarge();
  }
  state_ = State::kData;
  return absl::OkStatus();
}

absl::Status ChunkDecoder::TakeTrailer(const std::string& line) {
  if (line.empty()) {
    state_ = State::kDone;
    return absl::OkStatus();
  }
  const bool bad = ++num_trailers_ > limits_.max_header_fields || line.find(':') == 0 ||
                   line.find(':') == std::string::npos || line.front() == ' ' ||
                   line.front() == '\t';
  return bad ? BadChunk() : absl::OkStatus();
}

}  // namespace sluice::server
