#include "server/load/event_stream_parser.h"

namespace sluice::server {
namespace {

constexpr size_t kMaxEventBytes = 1 << 20;

}  // namespace

absl::Status EventStreamParser::Feed(std::string_view bytes, OnEvent on_event) {
  while (!bytes.empty()) {
    if (after_return_ && bytes.front() == '\n') bytes.remove_prefix(1);
    after_return_ = false;
    const size_t end = bytes.find_first_of("\r\n");
    const std::string_view piece = bytes.substr(0, end);
    if (line_.size() + data_.size() + piece.size() > kMaxEventBytes) {
      return absl::ResourceExhaustedError("an event is larger than 1 MiB");
    }
    if (end == std::string_view::npos) {
      line_.append(piece);
      break;
    }
    after_return_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    if (line_.empty()) {
      EndLine(piece, on_event);
    } else {
      line_.append(piece);
      EndLine(line_, on_event);
      line_.clear();
    }
  }
  return absl::OkStatus();
}

void EventStreamParser::EndLine(std::string_view line, OnEvent on_event) {
  if (line.empty()) {
    if (has_data_) on_event(data_);
    data_.clear();
    has_data_ = false;
    return;
  }
  const size_t colon = line.find(':');
  const std::string_view field = line.substr(0, colon);
  if (field == "data") {
    std::string_view value = colon == std::string_view::npos ? "" : line.substr(colon + 1);
    if (value.starts_with(' ')) value.remove_prefix(1);
    if (has_data_) data_.push_back('\n');
    data_.append(value);
    has_data_ = true;
  } else if (!field.empty() && field != "event" && field != "id" && field != "retry") {
    ++num_foreign_lines_;
  }
}

}  // namespace sluice::server
