// The tokenizer of a SentencePiece BPE `tokenizer.model`. Not for tokenizer.json, and not for
// unigram models.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/added_tokens.h"
#include "engine/text/bpe_model.h"
#include "engine/text/sentencepiece_file.h"
#include "engine/text/tokenizer.h"

namespace sluice {

class SentencePieceTokenizer : public Tokenizer {
 public:
  struct Settings {
    bool add_bos = true;
    bool add_eos = false;
    // Where the file says so by number; else the control pieces <s> and </s>.
    std::optional<int32_t> bos_token_id, eos_token_id;
  };
  // InvalidArgument when `model` (the file's bytes) is malformed.
  static absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>> FromBytes(
      std::string_view model, const Settings& settings);
  // The same for a checked file. Unimplemented when it needs what is not built.
  static absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>> FromFile(
      const SentencePieceFile& file, const Settings& settings);
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override;
  // Each section of plain text after a special token starts with the model's own leading space.
  absl::StatusOr<std::vector<int32_t>> EncodeRuns(const std::vector<TextRun>& runs,
                                                  bool add_special_tokens) const override;
  std::string TokenBytes(int32_t id, bool is_first) const override;
  bool IsSpecial(int32_t id) const override;
  std::optional<int32_t> SpecialTokenId(std::string_view content) const override;
  const TokenizerSummary& summary() const override { return summary_; }

 private:
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text,
                                                  const std::vector<ByteSpan>& special_spans,
                                                  bool add_special_tokens) const;
  void AppendPlain(std::string_view text, std::vector<int32_t>& ids) const;

  std::optional<BpeModel> model_;
  bool add_dummy_prefix_ = true;
  AddedTokens added_;               // control pieces, and user-defined ones for model_
  std::vector<std::string> texts_;  // what each id adds to the text
  std::vector<bool> is_special_;
  Settings settings_;
  TokenizerSummary summary_;
};

}  // namespace sluice
