// The body of a streamed completion, piece by piece, to a RequestRecord: when tokens came, how many
// the server counted, how it ended. No sockets.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/load/event_stream_parser.h"
#include "server/load/request_record.h"

namespace sluice::server {

// One event of the stream.
struct CompletionChunk {
  bool has_token = false;
  std::optional<int64_t> prompt_tokens, completion_tokens;
  std::string error;  // the server's message
};
// InvalidArgument when this is not JSON of the protocol.
absl::StatusOr<CompletionChunk> ReadCompletionChunk(std::string_view data);

// "message" of an OpenAI error body, or its beginning as it is.
std::string ErrorMessage(std::string_view body);

class CompletionStream {
 public:
  // More than `max_chunks` is malformed: the answer would never end.
  CompletionStream(RequestRecord& record, int64_t max_chunks)
      : record_(record), max_chunks_(max_chunks) {}

  // A piece of a body with `http_status`, come at `now`. True when it held something new, which
  // comments are not. Nothing more is wanted once is_over().
  bool Feed(int http_status, std::string_view piece, absl::Duration now);
  // The body, perhaps an empty one, has ended.
  void End(int http_status);

  bool is_over() const { return is_over_; }

 private:
  void OnEvent(std::string_view data, absl::Duration now);
  void Finish(RequestEnd end, std::string_view message = "");

  RequestRecord& record_;
  const int64_t max_chunks_;
  EventStreamParser events_;
  std::string error_body_;
  int64_t num_events_ = 0;
  bool is_over_ = false;
};

}  // namespace sluice::server
