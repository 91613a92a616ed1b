#include "engine/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/text/bpe_model.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr size_t kMaxAddedTokens = size_t{1} << 17;
constexpr size_t kMaxContentBytes = 1024;

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer added_tokens: ", message));
}

bool IsWholeWord(std::string_view text, const TokenFinder::Match& match) {
  if (match.begin > 0) {
    size_t before = match.begin;
    if (IsWordCharacter(PreviousCodePoint(text, before))) return false;
  }
  if (match.end < text.size()) {
    size_t after = match.end;
    if (IsWordCharacter(NextCodePoint(text, after))) return false;
  }
  return true;
}

bool LiesInside(const std::vector<ByteSpan>& spans, const TokenFinder::Match& match) {
  const auto after =
      std::upper_bound(spans.begin(), spans.end(), match.begin,
                       [](size_t at, const ByteSpan& span) { return at < span.begin; });
  return after != spans.begin() && match.end <= std::prev(after)->end;
}

absl::StatusOr<AddedToken> ReadToken(const json& item) {
  if (!item.is_object()) return Invalid("an entry is not an object");
  AddedToken token;
  ASSIGN_OR_RETURN(const int64_t id, ReadInt(item, "id", 0, kMaxVocabSize - 1));
  token.id = static_cast<int32_t>(id);
  ASSIGN_OR_RETURN(token.content, ReadString(item, "content"));
  ASSIGN_OR_RETURN(token.special, ReadBool(item, "special", false));
  ASSIGN_OR_RETURN(token.single_word, ReadBool(item, "single_word", false));
  ASSIGN_OR_RETURN(token.strip_left, ReadBool(item, "lstrip", false));
  ASSIGN_OR_RETURN(token.strip_right, ReadBool(item, "rstrip", false));
  ASSIGN_OR_RETURN(token.normalized, ReadBool(item, "normalized", !token.special));
  return token;
}

}  // namespace

absl::StatusOr<AddedTokens> AddedTokens::FromJson(const json* list) {
  std::vector<AddedToken> tokens;
  if (list != nullptr) {
    if (!list->is_array()) return Invalid("must be an array");
    for (const json& item : *list) {
      absl::StatusOr<AddedToken> token = ReadToken(item);
      if (!token.ok()) return Invalid(std::string(token.status().message()));
      tokens.push_back(*std::move(token));
    }
  }
  return FromList(std::move(tokens));
}

absl::StatusOr<AddedTokens> AddedTokens::FromList(std::vector<AddedToken> tokens) {
  if (tokens.size() > kMaxAddedTokens) return Invalid("too many");
  AddedTokens result;
  absl::flat_hash_set<int32_t> ids;
  absl::flat_hash_set<std::string> contents;
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) return Invalid("a content is empty");
    if (token.content.size() > kMaxContentBytes) return Invalid("a content is longer than 1 KiB");
    if (!ids.insert(token.id).second) return Invalid("two tokens have the same id");
    if (!contents.insert(token.content).second) return Invalid("two tokens have the same content");
  }
  result.tokens_ = std::move(tokens);
  for (size_t i = 0; i < result.tokens_.size(); ++i) {
    const AddedToken& token = result.tokens_[i];
    if (IsFoundRaw(token)) result.raw_.Add(token.content, static_cast<int32_t>(i));
  }
  return result;
}

void AddedTokens::AddNormalized(size_t index, std::string_view normalized_content) {
  if (!normalized_content.empty()) normalized_.Add(normalized_content, static_cast<int32_t>(index));
}

void AddedTokens::Build() {
  raw_.Build();
  normalized_.Build();
}

std::vector<TextSection> AddedTokens::CutRaw(std::string_view text,
                                             const std::vector<ByteSpan>& special_spans) const {
  return Cut(raw_, text, special_spans);
}

std::vector<TextSection> AddedTokens::CutNormalized(std::string_view text) const {
  return Cut(normalized_, text, {});
}

// The rules of huggingface/tokenizers, tokenizer/added_vocabulary.rs, find_matches.
std::vector<TextSection> AddedTokens::Cut(const TokenFinder& finder,
                                          std::string_view text,
                                          const std::vector<ByteSpan>& special_spans) const {
  std::vector<TextSection> sections;
  size_t done = 0;
  if (!finder.empty()) {
    const auto accept = [&](const TokenFinder::Match& match) {
      const AddedToken& token = tokens_[static_cast<size_t>(match.value)];
      if (token.special && !LiesInside(special_spans, match)) return false;
      return !token.single_word || IsWholeWord(text, match);
    };
    for (const TokenFinder::Match& match : finder.Find(text, accept)) {
      if (match.begin < done) continue;  // the token before took it as white space
      const AddedToken& token = tokens_[static_cast<size_t>(match.value)];
      size_t begin = match.begin;
      size_t end = match.end;
      for (size_t before = begin; token.strip_left && before > done; begin = before) {
        if (!IsWhiteSpace(PreviousCodePoint(text, before))) break;
      }
      for (size_t after = end; token.strip_right && after < text.size(); end = after) {
        if (!IsWhiteSpace(NextCodePoint(text, after))) break;
      }
      if (begin > done) sections.push_back({{done, begin}, -1});
      sections.push_back({{begin, end}, token.id});
      done = end;
    }
  }
  if (done < text.size()) sections.push_back({{done, text.size()}, -1});
  return sections;
}

}  // namespace sluice
