// Renders chat messages to a prompt with the model's Jinja `chat_template`, or a built-in plain
// template. The interpreter has no access to the host: no files, no imports, no attributes beyond
// plain values, and every render has a step, recursion and output budget. Not for tokenizing: it
// returns segments so that special tokens in user text can be encoded as plain text.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sluice {

struct ChatMessage {
  std::string role;     // system, user, assistant, tool, developer
  std::string content;  // text parts joined
};

// A run of rendered text. `from_message` text came out of a message's content: it must be encoded
// without recognising special tokens.
struct PromptSegment {
  std::string text;
  bool from_message = false;
};

// What a template sees besides the messages.
struct ChatTemplateContext {
  // Variables such as bos_token and eos_token.
  std::vector<std::pair<std::string, std::string>> special_tokens;
  // Seconds since 1970 for strftime_now; the system clock when empty.
  std::function<int64_t()> now;
};

class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;

  // Reads `chat_template.jinja` or `tokenizer_config.json`'s `chat_template` (string, or list of
  // named templates, "default" wins). Without either: the plain template `{role}: {content}\n ...
  // assistant:`. InvalidArgument when the template does not parse or exceeds 256 KiB.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& model_directory);
  static std::unique_ptr<ChatTemplate> Plain();
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(std::string_view source);
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(std::string_view source,
                                                             ChatTemplateContext context);

  // InvalidArgument when the template raises (raise_exception), misuses a value, or exceeds its
  // budget of 10^6 steps or an output of 4 x input + 64 KiB.
  virtual absl::StatusOr<std::vector<PromptSegment>> Render(
      const std::vector<ChatMessage>& messages, bool add_generation_prompt) const = 0;

  // "built-in" or "jinja".
  virtual std::string_view kind() const = 0;
};

}  // namespace sluice
