#include "engine/text/bpe_tokenizer.h"

#include <utility>

#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/text/text_runs.h"

namespace sluice {
namespace {

constexpr size_t kMaxTextBytes = size_t{64} << 20;

}  // namespace

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::Encode(std::string_view text,
                                                          const EncodeOptions& options) const {
  std::vector<ByteSpan> special_spans;
  if (options.parse_special_tokens) special_spans.push_back({0, text.size()});
  return EncodeText(text, special_spans, options.add_special_tokens);
}

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::EncodeRuns(const std::vector<TextRun>& runs,
                                                              bool add_special_tokens) const {
  const JoinedRuns joined = JoinedRuns::Join(runs);
  return EncodeText(joined.text, joined.special_spans, add_special_tokens);
}

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::EncodeText(
    std::string_view text,
    const std::vector<ByteSpan>& special_spans,
    bool add_special_tokens) const {
  if (text.size() > kMaxTextBytes)
    return absl::InvalidArgumentError("text is too long to tokenize");
  if (!IsValidUtf8(text)) return absl::InvalidArgumentError("text is not valid UTF-8");
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = prefix_;
  for (const TextSection& section : added_.CutRaw(text, special_spans)) {
    if (section.id >= 0) {
      ids.push_back(section.id);
      continue;
    }
    RETURN_IF_ERROR(
        EncodeSection(text.substr(section.span.begin, section.span.end - section.span.begin),
                      section.span.begin == 0, ids));
  }
  if (add_special_tokens) ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

absl::Status BpeTokenizer::EncodeSection(std::string_view section,
                                         bool starts_text,
                                         std::vector<int32_t>& ids) const {
  std::string text(section);
  if (normalizer_ != nullptr) {
    ASSIGN_OR_RETURN(text, normalizer_->Apply(std::move(text)));
  }
  const std::vector<TextSection> parts = added_.CutNormalized(text);
  if (parts.size() == 1 && parts[0].id < 0) return EncodePlain(std::move(text), starts_text, ids);
  for (const TextSection& part : parts) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    RETURN_IF_ERROR(EncodePlain(text.substr(part.span.begin, part.span.end - part.span.begin),
                                starts_text && part.span.begin == 0, ids));
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::EncodePlain(std::string text,
                                       bool starts_text,
                                       std::vector<int32_t>& ids) const {
  Pieces pieces;
  pieces.spans.push_back({0, text.size()});
  pieces.text = std::move(text);
  pieces.starts_text = starts_text;
  if (pre_tokenizer_ != nullptr) RETURN_IF_ERROR(pre_tokenizer_->Apply(pieces));
  const std::string_view split = pieces.text;
  for (const ByteSpan& span : pieces.spans) {
    model_->Encode(split.substr(span.begin, span.end - span.begin), ids);
  }
  return absl::OkStatus();
}

std::string BpeTokenizer::TokenBytes(int32_t id, bool is_first) const {
  if (id < 0 || static_cast<size_t>(id) >= tokens_.size()) return "";
  const std::string& token = tokens_[static_cast<size_t>(id)];
  if (kinds_[static_cast<size_t>(id)] != TokenKind::kPlain) return token;
  return decoder_->Decode(token, is_first);
}

bool BpeTokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < kinds_.size() &&
         kinds_[static_cast<size_t>(id)] == TokenKind::kSpecial;
}

std::optional<int32_t> BpeTokenizer::SpecialTokenId(std::string_view content) const {
  for (const AddedToken& token : added_.tokens()) {
    if (token.special && token.content == content) return token.id;
  }
  return std::nullopt;
}

}  // namespace sluice
