#include "engine/text/tokenizer.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/file_bytes.h"
#include "engine/text/incremental_detokenizer.h"
#include "engine/text/sentencepiece_tokenizer.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr int64_t kMaxTokenizerBytes = int64_t{256} << 20;
constexpr int64_t kMaxSentencePieceBytes = int64_t{64} << 20;
constexpr int64_t kMaxConfigBytes = int64_t{4} << 20;
// Merges written as pairs cost three values each, vocabulary entries two.
constexpr int64_t kMaxTokenizerNodes = 3 * kMaxMerges + 2 * kMaxVocabSize + 2'000'000;

// `bos_token` and the like are a string or an object with `content`.
absl::StatusOr<std::optional<std::string>> ReadTokenName(const json& config, const char* key) {
  const json* value = FindMember(config, key);
  if (value == nullptr) return std::optional<std::string>();
  if (value->is_object()) {
    ASSIGN_OR_RETURN(std::string content, ReadString(*value, "content"));
    return std::optional<std::string>(std::move(content));
  }
  ASSIGN_OR_RETURN(std::string content, ReadString(config, key));
  return std::optional<std::string>(std::move(content));
}

std::optional<int32_t> FirstKnown(const Tokenizer& tokenizer,
                                  const std::optional<std::string>& configured,
                                  const std::vector<const char*>& usual) {
  if (configured.has_value()) return tokenizer.SpecialTokenId(*configured);
  for (const char* content : usual) {
    const std::optional<int32_t> id = tokenizer.SpecialTokenId(content);
    if (id.has_value()) return id;
  }
  return std::nullopt;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizerJson(const json& file, const json& config) {
  ASSIGN_OR_RETURN(std::unique_ptr<BpeTokenizer> tokenizer, BpeTokenizer::FromJson(file));
  ASSIGN_OR_RETURN(const std::optional<std::string> bos, ReadTokenName(config, "bos_token"));
  ASSIGN_OR_RETURN(const std::optional<std::string> eos, ReadTokenName(config, "eos_token"));
  tokenizer->SetBosAndEos(
      FirstKnown(*tokenizer, bos, {"<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>"}),
      FirstKnown(*tokenizer, eos, {"</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"}));
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePiece(const std::string& path,
                                                             const json& config) {
  ASSIGN_OR_RETURN(const std::string bytes, ReadFileBytes(path, kMaxSentencePieceBytes));
  SentencePieceTokenizer::Settings settings;
  ASSIGN_OR_RETURN(settings.add_bos, ReadBool(config, "add_bos_token", true));
  ASSIGN_OR_RETURN(settings.add_eos, ReadBool(config, "add_eos_token", false));
  ASSIGN_OR_RETURN(std::unique_ptr<SentencePieceTokenizer> tokenizer,
                   SentencePieceTokenizer::FromBytes(bytes, settings));
  return tokenizer;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_directory) {
  absl::StatusOr<json> config =
      ReadJsonFile(absl::StrCat(model_directory, "/tokenizer_config.json"), kMaxConfigBytes, {});
  if (absl::IsNotFound(config.status())) config = json::object();
  if (!config.ok()) return config.status();
  const absl::StatusOr<json> file =
      ReadJsonFile(absl::StrCat(model_directory, "/tokenizer.json"), kMaxTokenizerBytes,
                   {.max_nodes = kMaxTokenizerNodes});
  if (file.ok()) return LoadTokenizerJson(*file, *config);
  if (!absl::IsNotFound(file.status())) return file.status();
  return LoadSentencePiece(absl::StrCat(model_directory, "/tokenizer.model"), *config);
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeRuns(const std::vector<TextRun>& runs,
                                                           bool add_special_tokens) const {
  std::vector<int32_t> ids;
  bool is_first = true;
  for (const TextRun& run : runs) {
    ASSIGN_OR_RETURN(const std::vector<int32_t> run_ids,
                     Encode(run.text, {.add_special_tokens = add_special_tokens && is_first,
                                       .parse_special_tokens = run.parse_special_tokens}));
    ids.insert(ids.end(), run_ids.begin(), run_ids.end());
    is_first = false;
  }
  return ids;
}

std::string Tokenizer::Decode(const std::vector<int32_t>& ids, bool keep_special) const {
  IncrementalDetokenizer detokenizer(*this, /*skip_special=*/!keep_special,
                                     /*continues_text=*/false);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Append(id);
  return text + detokenizer.Flush();
}

}  // namespace sluice
