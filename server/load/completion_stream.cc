#include "server/load/completion_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"

namespace sluice::server {
namespace {

constexpr JsonLimits kChunkLimits = {.max_depth = 16, .max_nodes = 100'000};
constexpr int64_t kMaxTokens = 1'000'000'000;
constexpr size_t kMaxErrorBytes = 16 << 10;
constexpr size_t kMaxLineBytes = 200;

// The text of {"error": "..."} or {"error": {"message": "..."}}; empty when there is none.
std::string ErrorOf(const nlohmann::json& object) {
  const nlohmann::json* error = FindMember(object, "error");
  if (error == nullptr) return "";
  if (error->is_string()) return PrintableLine(error->get_ref<const std::string&>());
  const nlohmann::json* message = error->is_object() ? FindMember(*error, "message") : nullptr;
  if (message == nullptr || !message->is_string()) return "an error without a message";
  return PrintableLine(message->get_ref<const std::string&>());
}

// Text, or an end without a reason: servers send a last chunk with the reason alone.
bool HasToken(const nlohmann::json& choice) {
  const nlohmann::json* text = FindMember(choice, "text");
  const bool has_text =
      text != nullptr && text->is_string() && !text->get_ref<const std::string&>().empty();
  return has_text || FindMember(choice, "finish_reason") == nullptr;
}

absl::StatusOr<std::optional<int64_t>> ReadCount(const nlohmann::json& usage, const char* key) {
  if (FindMember(usage, key) == nullptr) return std::nullopt;
  return ReadInt(usage, key, 0, kMaxTokens);
}

}  // namespace

const char* Name(RequestEnd end) {
  static constexpr const char* kNames[kNumRequestEnds] = {
      "answered",     "connect",   "timeout",      "http_status",
      "disconnected", "malformed", "server_error", "interrupted"};
  return kNames[static_cast<size_t>(end)];
}

std::string PrintableLine(std::string_view text) {
  std::string line(text.substr(0, kMaxLineBytes));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = ' ';
  }
  return line;
}

std::string ErrorMessage(std::string_view body) {
  const absl::StatusOr<nlohmann::json> json = ParseJson(body, kChunkLimits);
  const std::string message = json.ok() && json->is_object() ? ErrorOf(*json) : "";
  return message.empty() ? PrintableLine(body) : message;
}

absl::StatusOr<CompletionChunk> ReadCompletionChunk(std::string_view data) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(data, kChunkLimits));
  if (!json.is_object()) return absl::InvalidArgumentError("an event is not a JSON object");
  CompletionChunk chunk;
  chunk.error = ErrorOf(json);
  if (!chunk.error.empty()) return chunk;
  const nlohmann::json* choices = FindMember(json, "choices");
  const nlohmann::json* usage = FindMember(json, "usage");
  if ((choices == nullptr || !choices->is_array()) && usage == nullptr) {
    return absl::InvalidArgumentError("an event has neither choices nor usage");
  }
  if (choices != nullptr && choices->is_array() && !choices->empty()) {
    if (!choices->front().is_object()) {
      return absl::InvalidArgumentError("an event's choice is not a JSON object");
    }
    chunk.has_token = HasToken(choices->front());
  }
  if (usage != nullptr && usage->is_object()) {
    ASSIGN_OR_RETURN(chunk.prompt_tokens, ReadCount(*usage, "prompt_tokens"));
    ASSIGN_OR_RETURN(chunk.completion_tokens, ReadCount(*usage, "completion_tokens"));
  }
  return chunk;
}

bool CompletionStream::Feed(int http_status, std::string_view piece, absl::Duration now) {
  if (is_over_) return false;
  record_.http_status = http_status;
  if (http_status != 200) {
    error_body_.append(
        piece.substr(0, kMaxErrorBytes - std::min(kMaxErrorBytes, error_body_.size())));
    return false;
  }
  const int64_t before = num_events_;
  const absl::Status status =
      events_.Feed(piece, [this, now](std::string_view data) { OnEvent(data, now); });
  if (!status.ok()) {
    Finish(RequestEnd::kMalformed, {status.message().data(), status.message().size()});
  }
  return num_events_ > before;
}

void CompletionStream::OnEvent(std::string_view data, absl::Duration now) {
  if (is_over_) return;
  ++num_events_;
  if (data == "[DONE]") return Finish(RequestEnd::kAnswered);
  const absl::StatusOr<CompletionChunk> chunk = ReadCompletionChunk(data);
  if (!chunk.ok()) {
    return Finish(RequestEnd::kMalformed,
                  absl::StrCat("in the stream: ", chunk.status().message()));
  }
  if (!chunk->error.empty()) return Finish(RequestEnd::kServerError, chunk->error);
  if (num_events_ > max_chunks_) {
    return Finish(RequestEnd::kMalformed, "more chunks than tokens were asked for");
  }
  if (chunk->prompt_tokens.has_value()) record_.prompt_tokens = chunk->prompt_tokens;
  if (chunk->completion_tokens.has_value()) record_.completion_tokens = chunk->completion_tokens;
  if (!chunk->has_token) return;
  if (record_.chunks == 0) {
    record_.first_token = now;
  } else {
    record_.gaps_ms.push_back(
        static_cast<float>(absl::ToDoubleMilliseconds(now - record_.last_token)));
  }
  record_.last_token = now;
  ++record_.chunks;
}

void CompletionStream::End(int http_status) {
  if (is_over_) return;
  record_.http_status = http_status;
  if (record_.http_status != 200) {
    Finish(RequestEnd::kHttpStatus,
           absl::StrCat(record_.http_status, ": ", ErrorMessage(error_body_)));
  } else if (num_events_ == 0) {
    Finish(RequestEnd::kMalformed, events_.num_foreign_lines() > 0
                                       ? "the answer is not a stream of events"
                                       : "the answer has no events");
  } else {
    Finish(RequestEnd::kDisconnected, "the stream ended without [DONE]");
  }
}

void CompletionStream::Finish(RequestEnd end, std::string_view message) {
  record_.end = end;
  record_.message = message;
  is_over_ = true;
}

}  // namespace sluice::server
