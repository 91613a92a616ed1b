// Text <-> token ids for one model directory. Loads `tokenizer.json` (byte-level BPE, BPE with byte
// fallback) or SentencePiece `tokenizer.model`. Not for chat templates or streaming text.
// Immutable after Load: every method may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sluice {

struct EncodeOptions {
  // Adds the tokenizer's own BOS/EOS (post-processor / add_bos_token).
  bool add_special_tokens = true;
  // Recognises special tokens written in the text. Off for user text, so that nobody can forge a
  // turn.
  bool parse_special_tokens = false;
};

// A run of text for EncodeRuns; the text must outlive the call.
struct TextRun {
  std::string_view text;
  bool parse_special_tokens = false;
};

// What /tokenizer_info shows.
struct TokenizerSummary {
  std::string kind;  // "bpe", "sentencepiece"
  int32_t vocab_size = 0;
  std::optional<int32_t> bos_token_id;
  std::optional<int32_t> eos_token_id;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // InvalidArgument when a file is malformed, NotFound when there is no tokenizer file.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_directory);

  // Near linear in text.size() for any input. InvalidArgument on invalid UTF-8 or a regex limit.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                                      const EncodeOptions& options) const = 0;

  // Encodes the runs as one text, recognising special tokens only where one lies inside runs that
  // allow it. This is how a rendered chat template is encoded: merges may cross a border, forging
  // may not. Errors as Encode.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeRuns(const std::vector<TextRun>& runs,
                                                          bool add_special_tokens) const;

  // The bytes that token `id` adds to the text. May be an incomplete UTF-8 sequence. `is_first` is
  // true for the first token of a text (SentencePiece drops its leading space). Empty for ids out
  // of range.
  virtual std::string TokenBytes(int32_t id, bool is_first) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  virtual std::optional<int32_t> SpecialTokenId(std::string_view content) const = 0;
  virtual const TokenizerSummary& summary() const = 0;

  // Decodes a whole list; special tokens are left out unless `keep_special`. Invalid UTF-8 becomes
  // U+FFFD.
  std::string Decode(const std::vector<int32_t>& ids, bool keep_special) const;
};

}  // namespace sluice
