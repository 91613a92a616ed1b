// Server-sent events from bytes that come in any pieces (WHATWG HTML, 9.2.6). Only their data: the
// OpenAI protocol has no event names or ids.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace sluice::server {

class EventStreamParser {
 public:
  using OnEvent = absl::FunctionRef<void(std::string_view data)>;

  // Calls `on_event` for each event that these bytes complete. ResourceExhausted when one is larger
  // than 1 MiB.
  absl::Status Feed(std::string_view bytes, OnEvent on_event);

  // Lines that were neither a field of the standard nor a comment, as of a page or bare JSON.
  int64_t num_foreign_lines() const { return num_foreign_lines_; }

 private:
  void EndLine(std::string_view line, OnEvent on_event);

  std::string line_;  // its beginning, while its end has not come
  std::string data_;  // of the event under way
  bool has_data_ = false;
  bool after_return_ = false;  // the last byte was CR: an LF now belongs to it
  int64_t num_foreign_lines_ = 0;
};

}  // namespace sluice::server
