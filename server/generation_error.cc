#include "server/generation_error.h"

#include "engine/request_error.h"

namespace sluice::server {

absl::Status GenerationError(const TokenEvent& event, bool draining) {
  if (event.finish == FinishReason::kError) {
    return event.error.ok() ? absl::InternalError("the engine failed") : event.error;
  }
  if (event.finish != FinishReason::kCancelled) return absl::OkStatus();
  if (!event.error.ok() && !ErrorCodeOf(event.error).empty()) return event.error;
  return RequestError(absl::StatusCode::kUnavailable,
                      draining ? "shutting_down" : "request_cancelled", "",
                      "the server cancelled the request");
}

}  // namespace sluice::server
