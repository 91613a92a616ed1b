// Reading a BPE model from tokenizer.json: everything here is outside input.
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/text/bpe_model.h"

namespace sluice {
namespace {

using nlohmann::json;

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer model: ", message));
}

absl::Status RefuseUnsupported(const json& model) {
  ASSIGN_OR_RETURN(const double dropout, ReadNumber(model, "dropout", 0, 1, 0));
  if (dropout != 0) return Invalid("dropout is not supported");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string value, ReadString(model, affix, ""));
    if (!value.empty()) return Invalid(absl::StrCat(affix, " is not supported"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BpeModel> BpeModel::FromJson(const json& model) {
  if (!model.is_object()) return Invalid("must be an object");
  ASSIGN_OR_RETURN(const std::string type, ReadString(model, "type", "BPE"));
  if (type != "BPE")
    return Invalid(absl::StrCat("only BPE is supported, found ", type.substr(0, 32)));
  RETURN_IF_ERROR(RefuseUnsupported(model));
  BpeModel bpe;
  RETURN_IF_ERROR(bpe.ReadVocab(model));
  RETURN_IF_ERROR(bpe.ReadMerges(model));
  ASSIGN_OR_RETURN(bpe.fuse_unknown_, ReadBool(model, "fuse_unk", false));
  ASSIGN_OR_RETURN(bpe.ignore_merges_, ReadBool(model, "ignore_merges", false));
  ASSIGN_OR_RETURN(const bool byte_fallback, ReadBool(model, "byte_fallback", false));
  if (FindMember(model, "unk_token") != nullptr) {
    ASSIGN_OR_RETURN(const std::string unknown, ReadString(model, "unk_token"));
    bpe.unknown_ = bpe.IdOf(unknown);
    if (!bpe.unknown_.has_value()) return Invalid("unk_token is not in the vocabulary");
  }
  if (byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      const std::optional<int32_t> id = bpe.IdOf(absl::StrFormat("<0x%02X>", byte));
      if (!id.has_value()) return Invalid("byte_fallback needs all 256 byte tokens");
      bpe.byte_tokens_.push_back(*id);
    }
  }
  bpe.IndexCharacters();
  return bpe;
}

absl::Status BpeModel::ReadVocab(const json& model) {
  const json* vocab = FindMember(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return Invalid("vocab must be an object");
  if (vocab->empty()) return Invalid("vocab is empty");
  if (vocab->size() > static_cast<size_t>(kMaxVocabSize)) return Invalid("vocab is too large");
  vocab_.reserve(vocab->size());
  for (const auto& [token, value] : vocab->items()) {
    if (!value.is_number_integer()) return Invalid("a token id is not an integer");
    const bool huge =
        value.is_number_unsigned() &&
        *value.get_ptr<const json::number_unsigned_t*>() >= static_cast<uint64_t>(kMaxVocabSize);
    const int64_t id = huge ? kMaxVocabSize : *value.get_ptr<const json::number_integer_t*>();
    if (id < 0 || id >= kMaxVocabSize) return Invalid("a token id is out of range");
    vocab_.emplace(token, static_cast<int32_t>(id));
  }
  return absl::OkStatus();
}

absl::Status BpeModel::ReadMerges(const json& model) {
  const json* merges = FindMember(model, "merges");
  if (merges == nullptr || !merges->is_array()) return Invalid("merges must be an array");
  if (merges->size() > static_cast<size_t>(kMaxMerges)) return Invalid("there are too many merges");
  merges_.reserve(merges->size());
  int32_t rank = 0;
  for (const json& merge : *merges) {
    if (merge.is_string()) {
      const std::string_view text = *merge.get_ptr<const json::string_t*>();
      const size_t space = text.find(' ');
      if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
        return Invalid("a merge is not two tokens");
      }
      RETURN_IF_ERROR(AddMerge(text.substr(0, space), text.substr(space + 1), rank));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      RETURN_IF_ERROR(AddMerge(*merge[0].get_ptr<const json::string_t*>(),
                               *merge[1].get_ptr<const json::string_t*>(), rank));
    } else {
      return Invalid("a merge is not two tokens");
    }
    ++rank;
  }
  return absl::OkStatus();
}

absl::Status BpeModel::AddMerge(std::string_view left, std::string_view right, int32_t rank) {
  const std::optional<int32_t> left_id = IdOf(left);
  const std::optional<int32_t> right_id = IdOf(right);
  const std::optional<int32_t> merged_id = IdOf(std::string(left).append(right));
  if (!left_id.has_value() || !right_id.has_value() || !merged_id.has_value() || left.empty() ||
      right.empty()) {
    return Invalid("a merge names a token that is not in the vocabulary");
  }
  merges_[PairKey(*left_id, *right_id)] = {rank, *merged_id};
  return absl::OkStatus();
}

}  // namespace sluice
