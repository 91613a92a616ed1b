// Assembling a BpeTokenizer from the parts of a tokenizer.json.
#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/text/bpe_tokenizer.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr size_t kMaxTemplateItems = 64;

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", message));
}

const json& MemberOrNull(const json& object, const char* key) {
  static const json* null = new json(nullptr);
  const json* member = FindMember(object, key);
  return member == nullptr ? *null : *member;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BpeTokenizer>> BpeTokenizer::FromJson(const json& file) {
  if (!file.is_object()) return Invalid("must be an object");
  auto tokenizer = std::make_unique<BpeTokenizer>();
  RETURN_IF_ERROR(tokenizer->ReadTokens(file));
  ASSIGN_OR_RETURN(tokenizer->normalizer_, Normalizer::FromJson(MemberOrNull(file, "normalizer")));
  ASSIGN_OR_RETURN(tokenizer->pre_tokenizer_,
                   PreTokenizer::FromJson(MemberOrNull(file, "pre_tokenizer")));
  ASSIGN_OR_RETURN(tokenizer->decoder_, TokenDecoder::FromJson(MemberOrNull(file, "decoder")));
  RETURN_IF_ERROR(tokenizer->ReadPostProcessor(MemberOrNull(file, "post_processor")));
  RETURN_IF_ERROR(tokenizer->IndexNormalized());
  tokenizer->summary_.kind = "bpe";
  tokenizer->summary_.vocab_size = static_cast<int32_t>(tokenizer->tokens_.size());
  return tokenizer;
}

absl::Status BpeTokenizer::ReadTokens(const json& file) {
  const json* model = FindMember(file, "model");
  if (model == nullptr) return Invalid("there is no model");
  ASSIGN_OR_RETURN(model_, BpeModel::FromJson(*model));
  ASSIGN_OR_RETURN(added_, AddedTokens::FromJson(FindMember(file, "added_tokens")));
  RETURN_IF_ERROR(PlaceTokens());
  std::vector<int32_t> special_ids;
  for (const AddedToken& token : added_.tokens()) {
    if (token.special) special_ids.push_back(token.id);
  }
  model_->Forbid(special_ids);
  return absl::OkStatus();
}

// Gives every token its id: ids must be unique and dense, so that each id a model can sample has a
// text.
absl::Status BpeTokenizer::PlaceTokens() {
  size_t size = 0;
  const auto grow = [&size](int32_t id) { size = std::max(size, static_cast<size_t>(id) + 1); };
  for (const auto& [token, id] : model_->vocab()) grow(id);
  for (const AddedToken& token : added_.tokens()) grow(token.id);
  std::vector<bool> taken(size);
  tokens_.resize(size);
  kinds_.assign(size, TokenKind::kPlain);
  size_t num_placed = 0;
  for (const auto& [token, id] : model_->vocab()) {
    const auto index = static_cast<size_t>(id);
    if (taken[index]) return Invalid("two tokens have the same id");
    taken[index] = true;
    tokens_[index] = token;
    ++num_placed;
  }
  for (const AddedToken& token : added_.tokens()) {
    const auto index = static_cast<size_t>(token.id);
    const std::optional<int32_t> known = model_->IdOf(token.content);
    if (known.has_value() ? *known != token.id : taken[index]) {
      return Invalid("an added token contradicts the vocabulary");
    }
    if (!taken[index]) ++num_placed;
    taken[index] = true;
    tokens_[index] = token.content;
    kinds_[index] = token.special ? TokenKind::kSpecial : TokenKind::kAdded;
  }
  if (num_placed != size) return Invalid("token ids are not dense");
  return absl::OkStatus();
}

absl::Status BpeTokenizer::IndexNormalized() {
  for (size_t i = 0; i < added_.tokens().size(); ++i) {
    const AddedToken& token = added_.tokens()[i];
    if (AddedTokens::IsFoundRaw(token)) continue;
    std::string content = token.content;
    if (normalizer_ != nullptr) {
      ASSIGN_OR_RETURN(content, normalizer_->Apply(std::move(content)));
    }
    added_.AddNormalized(i, content);
  }
  added_.Build();
  return absl::OkStatus();
}

absl::Status BpeTokenizer::ReadPostProcessor(const json& value) {
  if (value.is_null()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string type, ReadString(value, "type"));
  if (type == "ByteLevel") return absl::OkStatus();  // trims offsets only
  if (type == "TemplateProcessing") return ReadTemplate(value);
  if (type != "Sequence") {
    return Invalid(absl::StrCat("post_processor type is not supported: ", type.substr(0, 32)));
  }
  const json* processors = FindMember(value, "processors");
  if (processors == nullptr || !processors->is_array() || processors->size() > kMaxTemplateItems) {
    return Invalid("post_processor Sequence needs a short list");
  }
  for (const json& item : *processors) RETURN_IF_ERROR(ReadPostProcessor(item));
  return absl::OkStatus();
}

absl::Status BpeTokenizer::ReadTemplate(const json& value) {
  const json* single = FindMember(value, "single");
  if (single == nullptr || !single->is_array() || single->size() > kMaxTemplateItems) {
    return Invalid("post_processor needs a short list 'single'");
  }
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  bool seen_text = false;
  for (const json& item : *single) {
    if (const json* special = FindMember(item, "SpecialToken"); special != nullptr) {
      ASSIGN_OR_RETURN(const std::string name, ReadString(*special, "id"));
      RETURN_IF_ERROR(AppendTemplateToken(value, name, seen_text ? after : before));
    } else if (FindMember(item, "Sequence") != nullptr && !seen_text) {
      seen_text = true;
    } else {
      return Invalid("post_processor has an unknown item");
    }
  }
  if (!seen_text) return Invalid("post_processor leaves out the text");
  prefix_.insert(prefix_.begin(), before.begin(), before.end());
  suffix_.insert(suffix_.end(), after.begin(), after.end());
  if (prefix_.size() + suffix_.size() > 4 * kMaxTemplateItems)
    return Invalid("post_processor is too long");
  return absl::OkStatus();
}

absl::Status BpeTokenizer::AppendTemplateToken(const json& value,
                                               const std::string& name,
                                               std::vector<int32_t>& ids) const {
  const json* tokens = FindMember(value, "special_tokens");
  const json* token = tokens == nullptr ? nullptr : FindMember(*tokens, name.c_str());
  if (token == nullptr) return Invalid("post_processor names a token that it does not define");
  ASSIGN_OR_RETURN(
      const std::vector<int64_t> token_ids,
      ReadIntList(*token, "ids", 0, static_cast<int64_t>(tokens_.size()) - 1, kMaxTemplateItems));
  for (const int64_t id : token_ids) ids.push_back(static_cast<int32_t>(id));
  return absl::OkStatus();
}

}  // namespace sluice
