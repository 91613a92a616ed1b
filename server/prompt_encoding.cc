#include "server/prompt_encoding.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"

namespace sluice::server {
namespace {

// The tokenizer's messages may quote its input; ours may not.
absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                            const EncodeOptions& options,
                                            const Tokenizer& tokenizer,
                                            std::string_view param) {
  absl::StatusOr<std::vector<int32_t>> ids = tokenizer.Encode(text, options);
  if (!ids.ok()) return BadRequest("invalid_value", param, "the text cannot be tokenized");
  return ids;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodePrompt(std::string_view text,
                                                  bool add_special_tokens,
                                                  const Tokenizer& tokenizer) {
  return Encode(text, {.add_special_tokens = add_special_tokens, .parse_special_tokens = true},
                tokenizer, "prompt");
}

absl::StatusOr<std::vector<int32_t>> EncodeChat(const std::vector<ChatMessage>& messages,
                                                bool add_generation_prompt,
                                                const EngineClient& engine) {
  const auto segments = engine.chat_template().Render(messages, add_generation_prompt);
  if (!segments.ok()) {
    return BadRequest("template_error", "messages", "the chat template refuses these messages");
  }
  // One text, so that merges across the borders happen; special tokens are recognised only in the
  // template's own runs. A Jinja template writes its own start token; the plain one leaves that to
  // the tokenizer.
  std::vector<TextRun> runs;
  for (const PromptSegment& segment : *segments)
    runs.push_back({segment.text, !segment.from_message});
  auto ids = engine.tokenizer().EncodeRuns(runs, engine.chat_template().kind() == "built-in");
  if (!ids.ok()) return BadRequest("invalid_value", "messages", "the text cannot be tokenized");
  return ids;
}

absl::StatusOr<std::vector<std::vector<int32_t>>> EncodeBadWords(
    const std::vector<std::string>& words, const Tokenizer& tokenizer) {
  constexpr EncodeOptions kPlain = {.add_special_tokens = false, .parse_special_tokens = false};
  std::vector<std::vector<int32_t>> sequences;
  for (const std::string& word : words) {
    const std::string bare(absl::StripLeadingAsciiWhitespace(word));
    ASSIGN_OR_RETURN(std::vector<int32_t> plain, Encode(bare, kPlain, tokenizer, "bad_words"));
    ASSIGN_OR_RETURN(std::vector<int32_t> spaced,
                     Encode(absl::StrCat(" ", bare), kPlain, tokenizer, "bad_words"));
    if (plain.empty()) return BadRequest("invalid_value", "bad_words", "a bad word is empty");
    const bool differs = spaced != plain;
    sequences.push_back(std::move(plain));
    if (differs) sequences.push_back(std::move(spaced));
  }
  return sequences;
}

}  // namespace sluice::server
