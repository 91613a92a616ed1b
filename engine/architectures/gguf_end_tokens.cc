// Which tokens end a text in a GGUF file.
#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <string_view>

#include "engine/architectures/gguf_model.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

constexpr char kTokens[] = "tokenizer.ggml.tokens";
constexpr char kTypes[] = "tokenizer.ggml.token_type";
// Values of token_type.
constexpr int64_t kControl = 3;
constexpr int64_t kUserDefined = 4;

// Those of the supported architectures' chat formats. Source: ggml-org/llama.cpp
// src/llama-vocab.cpp, special_eog_ids.
constexpr std::array<std::string_view, 14> kEndTexts = {
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "<end_of_utterance>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"};

bool IsEnd(std::string_view text) {
  return std::find(kEndTexts.begin(), kEndTexts.end(), text) != kEndTexts.end();
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> GgufEndTokens(const GgufMetadata& metadata,
                                                   int64_t vocab_size) {
  std::set<int64_t> ids;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    if (!metadata.Has(key)) continue;
    ASSIGN_OR_RETURN(const int64_t id, metadata.Int(key, 0, vocab_size - 1));
    ids.insert(id);
  }
  if (metadata.Has(kTokens) && metadata.Has(kTypes)) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> types, metadata.Ints(kTypes, vocab_size));
    size_t id = 0;
    RETURN_IF_ERROR(metadata.EachString(kTokens, vocab_size, [&](std::string_view text) {
      const int64_t type = id < types.size() ? types[id] : 0;
      if ((type == kControl || type == kUserDefined) && IsEnd(text))
        ids.insert(static_cast<int64_t>(id));
      ++id;
      return absl::OkStatus();
    }));
  }
  return std::vector<int64_t>(ids.begin(), ids.end());
}

}  // namespace sluice
