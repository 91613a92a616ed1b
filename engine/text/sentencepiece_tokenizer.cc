#include "engine/text/sentencepiece_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/text/sentencepiece_file.h"
#include "engine/text/text_runs.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

constexpr size_t kMaxTextBytes = size_t{64} << 20;
constexpr const char* kSpaceMarker = "\xE2\x96\x81";

std::optional<int32_t> ControlPiece(const SentencePieceFile& file, std::string_view content) {
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    const SentencePieceEntry& entry = file.pieces[id];
    if (entry.kind == PieceKind::kControl && entry.piece == content)
      return static_cast<int32_t>(id);
  }
  return std::nullopt;
}

std::string TextOf(const SentencePieceEntry& entry) {
  if (entry.kind == PieceKind::kByte) {
    return std::string(1, static_cast<char>(BytePieceValue(entry.piece)));
  }
  if (entry.kind == PieceKind::kControl || entry.kind == PieceKind::kUnknown) return entry.piece;
  return absl::StrReplaceAll(entry.piece, {{kSpaceMarker, " "}});
}

// Could merges make this piece of two others? The library makes an unused piece of its parts and
// takes it apart again at the end, which can cut the text elsewhere; we never make one.
bool IsMergeable(const std::string& piece, const absl::flat_hash_set<std::string_view>& pieces) {
  const std::string_view text = piece;
  for (size_t cut = 1; cut < text.size(); ++cut) {
    if (pieces.contains(text.substr(0, cut)) && pieces.contains(text.substr(cut))) return true;
  }
  return false;
}

absl::Status CheckUnused(const SentencePieceFile& file) {
  absl::flat_hash_set<std::string_view> pieces;
  for (const SentencePieceEntry& entry : file.pieces) {
    if (entry.kind == PieceKind::kNormal || entry.kind == PieceKind::kUnused)
      pieces.insert(entry.piece);
  }
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    const SentencePieceEntry& entry = file.pieces[id];
    if (entry.kind != PieceKind::kUnused) continue;
    size_t first = 0;
    NextCodePoint(entry.piece, first);
    if (first == entry.piece.size() || IsMergeable(entry.piece, pieces)) {
      return absl::UnimplementedError(
          absl::StrCat("piece ", id, " is unused, but text can become it: that is not supported"));
    }
  }
  return absl::OkStatus();
}

// Unigram models and text normalisation are not built. libsentencepiece would do them, but it
// exports a copy of protobuf that breaks the one gRPC uses when both are in a process.
absl::Status CheckSupported(const SentencePieceFile& file) {
  const auto num_bytes =
      std::count_if(file.pieces.begin(), file.pieces.end(),
                    [](const auto& entry) { return entry.kind == PieceKind::kByte; });
  const char* what = nullptr;
  if (!file.is_bpe) what = "a unigram model";
  if (file.has_character_map) what = "text normalisation (a character map)";
  if (file.remove_extra_whitespaces) what = "removing extra whitespace";
  if (!file.escape_whitespaces) what = "spaces that are not escaped";
  if (file.whitespace_is_suffix) what = "whitespace as a suffix";
  if (file.byte_fallback && num_bytes != 256) what = "a part of the 256 byte pieces only";
  if (what == nullptr) return CheckUnused(file);
  return absl::UnimplementedError(
      absl::StrCat(what, " is not supported (BPE models without text normalisation are)"));
}

absl::StatusOr<AddedTokens> AddedPieces(const SentencePieceFile& file) {
  std::vector<AddedToken> added;
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    const SentencePieceEntry& entry = file.pieces[id];
    if (entry.kind != PieceKind::kControl && entry.kind != PieceKind::kUserDefined) continue;
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    token.content = entry.piece;
    token.special = entry.kind == PieceKind::kControl;
    token.normalized = !token.special;  // user-defined pieces are looked for after escaping
    added.push_back(std::move(token));
  }
  ASSIGN_OR_RETURN(AddedTokens tokens, AddedTokens::FromList(std::move(added)));
  for (size_t i = 0; i < tokens.tokens().size(); ++i) {
    if (!tokens.tokens()[i].special) tokens.AddNormalized(i, tokens.tokens()[i].content);
  }
  tokens.Build();
  return tokens;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>> SentencePieceTokenizer::FromBytes(
    std::string_view model, const Settings& settings) {
  ASSIGN_OR_RETURN(const SentencePieceFile file, SentencePieceFile::Parse(model));
  absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>> tokenizer = FromFile(file, settings);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      absl::StrCat("tokenizer.model: ", tokenizer.status().message(),
                                   "; provide the tokenizer.json of this model instead"));
}

absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>> SentencePieceTokenizer::FromFile(
    const SentencePieceFile& file, const Settings& settings) {
  auto tokenizer = std::make_unique<SentencePieceTokenizer>();
  RETURN_IF_ERROR(CheckSupported(file));
  for (const SentencePieceEntry& entry : file.pieces) {
    tokenizer->texts_.push_back(TextOf(entry));
    tokenizer->is_special_.push_back(entry.kind == PieceKind::kControl ||
                                     entry.kind == PieceKind::kUnknown);
  }
  ASSIGN_OR_RETURN(tokenizer->added_, AddedPieces(file));
  tokenizer->add_dummy_prefix_ = file.add_dummy_prefix;
  tokenizer->settings_ = settings;
  tokenizer->summary_.kind = "sentencepiece";
  tokenizer->summary_.vocab_size = static_cast<int32_t>(file.pieces.size());
  tokenizer->summary_.bos_token_id =
      settings.bos_token_id.has_value() ? settings.bos_token_id : ControlPiece(file, "<s>");
  tokenizer->summary_.eos_token_id =
      settings.eos_token_id.has_value() ? settings.eos_token_id : ControlPiece(file, "</s>");
  tokenizer->model_ = BpeModel::FromSentencePiece(file);
  return tokenizer;
}

absl::StatusOr<std::vector<int32_t>> SentencePieceTokenizer::Encode(
    std::string_view text, const EncodeOptions& options) const {
  std::vector<ByteSpan> special_spans;
  if (options.parse_special_tokens) special_spans.push_back({0, text.size()});
  return EncodeText(text, special_spans, options.add_special_tokens);
}

absl::StatusOr<std::vector<int32_t>> SentencePieceTokenizer::EncodeRuns(
    const std::vector<TextRun>& runs, bool add_special_tokens) const {
  const JoinedRuns joined = JoinedRuns::Join(runs);
  return EncodeText(joined.text, joined.special_spans, add_special_tokens);
}

absl::StatusOr<std::vector<int32_t>> SentencePieceTokenizer::EncodeText(
    std::string_view text,
    const std::vector<ByteSpan>& special_spans,
    bool add_special_tokens) const {
  if (text.size() > kMaxTextBytes)
    return absl::InvalidArgumentError("text is too long to tokenize");
  if (!IsValidUtf8(text)) return absl::InvalidArgumentError("text is not valid UTF-8");
  std::vector<int32_t> ids;
  if (add_special_tokens && settings_.add_bos && summary_.bos_token_id.has_value()) {
    ids.push_back(*summary_.bos_token_id);
  }
  for (const TextSection& section : added_.CutRaw(text, special_spans)) {
    if (section.id >= 0) {
      ids.push_back(section.id);
    } else {
      AppendPlain(text.substr(section.span.begin, section.span.end - section.span.begin), ids);
    }
  }
  if (add_special_tokens && settings_.add_eos && summary_.eos_token_id.has_value()) {
    ids.push_back(*summary_.eos_token_id);
  }
  return ids;
}

void SentencePieceTokenizer::AppendPlain(std::string_view text, std::vector<int32_t>& ids) const {
  std::string escaped;
  escaped.reserve(text.size() + text.size() / 2);
  if (add_dummy_prefix_) escaped += kSpaceMarker;
  for (const char c : text) {
    if (c == ' ') {
      escaped += kSpaceMarker;
    } else {
      escaped += c;
    }
  }
  const std::string_view rest = escaped;
  for (const TextSection& section : added_.CutNormalized(rest)) {
    if (section.id >= 0) {
      ids.push_back(section.id);
    } else {
      model_->Encode(rest.substr(section.span.begin, section.span.end - section.span.begin), ids);
    }
  }
}

std::string SentencePieceTokenizer::TokenBytes(int32_t id, bool is_first) const {
  if (id < 0 || static_cast<size_t>(id) >= texts_.size()) return "";
  const std::string& text = texts_[static_cast<size_t>(id)];
  const bool strip = is_first && add_dummy_prefix_ && !IsSpecial(id) && text.starts_with(' ');
  return strip ? text.substr(1) : text;
}

bool SentencePieceTokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < is_special_.size() &&
         is_special_[static_cast<size_t>(id)];
}

std::optional<int32_t> SentencePieceTokenizer::SpecialTokenId(std::string_view content) const {
  for (const AddedToken& token : added_.tokens()) {
    if (token.special && token.content == content) return token.id;
  }
  return std::nullopt;
}

}  // namespace sluice
