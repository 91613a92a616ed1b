// The tokenizer of a tokenizer.json: added tokens, normaliser, pre-tokenizer, merge model,
// post-processor and decoder in the order of the file format. Not for SentencePiece files.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/added_tokens.h"
#include "engine/text/bpe_model.h"
#include "engine/text/normalizer.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/token_decoder.h"
#include "engine/text/tokenizer.h"

namespace sluice {

class BpeTokenizer : public Tokenizer {
 public:
  // InvalidArgument when any part of the file is malformed or not supported.
  static absl::StatusOr<std::unique_ptr<BpeTokenizer>> FromJson(const nlohmann::json& file);

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override;
  absl::StatusOr<std::vector<int32_t>> EncodeRuns(const std::vector<TextRun>& runs,
                                                  bool add_special_tokens) const override;
  std::string TokenBytes(int32_t id, bool is_first) const override;
  bool IsSpecial(int32_t id) const override;
  std::optional<int32_t> SpecialTokenId(std::string_view content) const override;
  const TokenizerSummary& summary() const override { return summary_; }
  void SetBosAndEos(std::optional<int32_t> bos, std::optional<int32_t> eos) {
    summary_.bos_token_id = bos;
    summary_.eos_token_id = eos;
  }

 private:
  absl::Status ReadTokens(const nlohmann::json& file);
  absl::Status PlaceTokens();
  absl::Status IndexNormalized();
  absl::Status ReadPostProcessor(const nlohmann::json& value);
  absl::Status ReadTemplate(const nlohmann::json& value);
  absl::Status AppendTemplateToken(const nlohmann::json& value,
                                   const std::string& name,
                                   std::vector<int32_t>& ids) const;

  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text,
                                                  const std::vector<ByteSpan>& special_spans,
                                                  bool add_special_tokens) const;
  absl::Status EncodeSection(std::string_view section,
                             bool starts_text,
                             std::vector<int32_t>& ids) const;
  absl::Status EncodePlain(std::string text, bool starts_text, std::vector<int32_t>& ids) const;

  enum class TokenKind : uint8_t { kPlain, kAdded, kSpecial };

  AddedTokens added_;
  std::unique_ptr<Normalizer> normalizer_;       // may be null
  std::unique_ptr<PreTokenizer> pre_tokenizer_;  // may be null
  std::optional<BpeModel> model_;
  std::optional<TokenDecoder> decoder_;
  std::vector<int32_t> prefix_;  // what the post-processor puts before and after the text
  std::vector<int32_t> suffix_;
  std::vector<std::string> tokens_;  // by id
  std::vector<TokenKind> kinds_;     // by id
  TokenizerSummary summary_;
};

}  // namespace sluice
