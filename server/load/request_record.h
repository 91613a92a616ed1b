// What one request of a load met, as numbers. Times count from the start of the run.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace sluice::server {

enum class RequestEnd : uint8_t {
  kAnswered,
  kConnect,       // no connection
  kTimeout,       // nothing new for too long
  kHttpStatus,    // another status than 200
  kDisconnected,  // ended before [DONE]
  kMalformed,     // not HTTP, not events, not JSON of the protocol
  kServerError,   // an error inside the stream
  kInterrupted,   // by us
};
inline constexpr int kNumRequestEnds = 8;
const char* Name(RequestEnd end);

struct RequestRecord {
  RequestEnd end = RequestEnd::kInterrupted;
  int http_status = 0;
  std::string message;                     // of a failure, one printable line
  absl::Duration due;                      // when it should be sent
  absl::Duration sent;                     // when it was
  absl::Duration first_token, last_token;  // of chunks with something generated
  absl::Duration ended;
  std::vector<float> gaps_ms;            // between such chunks
  int64_t chunks = 0;                    // with something generated
  std::optional<int64_t> prompt_tokens;  // as the server counts
  std::optional<int64_t> completion_tokens;

  // Of the answer: what the server says, else one a chunk.
  int64_t output_tokens() const { return completion_tokens.value_or(chunks); }
};

// The first 200 characters, control characters as spaces: text of others for a terminal.
std::string PrintableLine(std::string_view text);

}  // namespace sluice::server
