// From text to token ids for both APIs: raw prompts, chat messages through the model's template,
// and bad words. Runs on the text thread. Special tokens written inside a message stay plain text.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine_client.h"

namespace sluice::server {

// InvalidArgument when the text cannot be encoded.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(std::string_view text,
                                                  bool add_special_tokens,
                                                  const Tokenizer& tokenizer);

// InvalidArgument `template_error` / messages when the model's template refuses the messages.
absl::StatusOr<std::vector<int32_t>> EncodeChat(const std::vector<ChatMessage>& messages,
                                                bool add_generation_prompt,
                                                const EngineClient& engine);

// Token sequences of each word, with and without a space before it, as in vLLM.
absl::StatusOr<std::vector<std::vector<int32_t>>> EncodeBadWords(
    const std::vector<std::string>& words, const Tokenizer& tokenizer);

}  // namespace sluice::server
