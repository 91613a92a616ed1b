// The tokenizer and the chat template in the metadata of a GGUF file (keys "tokenizer.*"). Byte
// pairs become a tokenizer.json, SentencePiece pieces a SentencePieceFile; nothing here encodes.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/gguf_metadata.h"

namespace sluice {

// InvalidArgument or Unimplemented naming the key. `max_tokens` is what the embedding has rows for:
// it bounds every list before one is built.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadGgufTokenizer(const GgufMetadata& metadata,
                                                             int64_t max_tokens);
// The plain template where the file has none.
absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadGgufChatTemplate(const GgufMetadata& metadata,
                                                                   int64_t max_tokens);

}  // namespace sluice
