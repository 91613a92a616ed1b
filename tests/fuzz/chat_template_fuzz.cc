// Fuzzes chat templates and the messages given to them: no crash, errors are InvalidArgument, the
// output stays within its bound, and no text is marked as the template's own that only a message
// contains.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "engine/text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find('\0');
  const std::string source(input.substr(0, cut));
  const std::string content(cut == std::string_view::npos ? "hello" : input.substr(cut + 1));

  const auto chat_template = sluice::ChatTemplate::Parse(source);
  if (!chat_template.ok()) {
    if (chat_template.status().code() != absl::StatusCode::kInvalidArgument) std::abort();
    return 0;
  }
  // \x01 does not occur in the sources that this check looks at, so it must stay marked.
  const std::string secret = "\x01" + content;
  const auto segments = (*chat_template)->Render({{"system", "be kind"}, {"user", secret}}, true);
  if (!segments.ok()) {
    if (segments.status().code() != absl::StatusCode::kInvalidArgument) std::abort();
    return 0;
  }
  size_t output = 0;
  const bool source_is_clean =
      source.find('\x01') == std::string::npos && source.find('\\') == std::string::npos;
  for (const sluice::PromptSegment& segment : *segments) {
    output += segment.text.size();
    if (source_is_clean && !segment.from_message &&
        segment.text.find('\x01') != std::string::npos) {
      std::abort();
    }
  }
  const size_t bytes = source.size() + secret.size() + 64;
  if (output > 4 * bytes + 64 * 1024) std::abort();
  return 0;
}
