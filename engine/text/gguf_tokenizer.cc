#include "engine/text/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/sentencepiece_tokenizer.h"
#include "engine/weights/safetensors.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr char kPrefix[] = "tokenizer.ggml.";
// Values of tokenizer.ggml.token_type; the same numbers as PieceKind.
constexpr int64_t kControl = 3;
constexpr int64_t kUserDefined = 4;

std::string Key(const char* name) { return absl::StrCat(kPrefix, name); }

// How text is cut before merging, by tokenizer.ggml.pre. Source of names and patterns:
// ggml-org/llama.cpp src/llama-vocab.cpp; the patterns are those of the models' tokenizer.json.
struct PreTokenizerRow {
  const char* name;
  const char* pattern;          // null: GPT-2's own
  bool splits_digits = false;   // each digit by itself, before the pattern
  bool ignores_merges = false;  // a whole piece that is a token is taken as it is
  bool adds_bos = false;        // unless the file says otherwise
  bool composes = false;        // Unicode NFC first
};

constexpr char kLlama3Pattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwenPattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr auto kPreTokenizers = std::to_array<PreTokenizerRow>({
    {.name = "gpt-2", .pattern = nullptr},
    {.name = "phi-2", .pattern = nullptr},
    {.name = "olmo", .pattern = nullptr},
    {.name = "smollm", .pattern = nullptr, .splits_digits = true},
    {.name = "refact", .pattern = nullptr, .splits_digits = true},
    {.name = "starcoder", .pattern = nullptr, .splits_digits = true},
    {.name = "codeshell", .pattern = nullptr, .splits_digits = true},
    {.name = "minerva-7b", .pattern = nullptr, .splits_digits = true},
    {.name = "llama-bpe", .pattern = kLlama3Pattern, .ignores_merges = true, .adds_bos = true},
    {.name = "llama3", .pattern = kLlama3Pattern, .ignores_merges = true, .adds_bos = true},
    {.name = "llama-v3", .pattern = kLlama3Pattern, .ignores_merges = true, .adds_bos = true},
    {.name = "falcon3", .pattern = kLlama3Pattern, .ignores_merges = true, .adds_bos = true},
    {.name = "pixtral", .pattern = kLlama3Pattern, .ignores_merges = true, .adds_bos = true},
    {.name = "dbrx", .pattern = kLlama3Pattern},
    {.name = "smaug-bpe", .pattern = kLlama3Pattern},
    {.name = "qwen2", .pattern = kQwenPattern, .composes = true},
    {.name = "deepseek-r1-qwen", .pattern = kQwenPattern, .composes = true},
    {.name = "kormo", .pattern = kQwenPattern, .composes = true},
    {.name = "megrez", .pattern = kQwenPattern, .composes = true},
});

absl::StatusOr<PreTokenizerRow> FindPreTokenizer(const GgufMetadata& metadata) {
  ASSIGN_OR_RETURN(const std::string name, metadata.String(Key("pre"), "default"));
  std::string known;
  for (const PreTokenizerRow& row : kPreTokenizers) {
    if (name == row.name) return row;
    absl::StrAppend(&known, known.empty() ? "" : ", ", row.name);
  }
  if (name == "default") {
    return absl::UnimplementedError(
        absl::StrCat("'", Key("pre"),
                     "' does not say how the model cuts text: convert the model "
                     "again with a newer llama.cpp"));
  }
  return absl::UnimplementedError(absl::StrCat("'", Key("pre"), "' ", QuotedTensorName(name),
                                               " is not supported; supported are ", known));
}

// The lists that every vocabulary has.
struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int64_t> types;  // one for each token
  std::optional<int32_t> bos, eos;
};

absl::StatusOr<std::optional<int32_t>> ReadTokenId(const GgufMetadata& metadata,
                                                   const char* name,
                                                   size_t vocab_size) {
  if (!metadata.Has(Key(name))) return std::optional<int32_t>();
  ASSIGN_OR_RETURN(const int64_t id,
                   metadata.Int(Key(name), 0, static_cast<int64_t>(vocab_size) - 1));
  return std::optional<int32_t>(static_cast<int32_t>(id));
}

absl::StatusOr<Vocabulary> ReadVocabulary(const GgufMetadata& metadata, int64_t max_tokens) {
  Vocabulary vocabulary;
  max_tokens = std::min(max_tokens, int64_t{kMaxVocabSize});
  ASSIGN_OR_RETURN(vocabulary.tokens, metadata.Strings(Key("tokens"), max_tokens));
  ASSIGN_OR_RETURN(vocabulary.types, metadata.Ints(Key("token_type"), max_tokens));
  const size_t size = vocabulary.tokens.size();
  if (size == 0 || vocabulary.types.size() != size) {
    return absl::InvalidArgumentError(absl::StrCat("'", Key("tokens"), "' and '", Key("token_type"),
                                                   "' must be equally long and not empty"));
  }
  for (size_t id = 0; id < size; ++id) {
    if (!IsValidUtf8(vocabulary.tokens[id]) || vocabulary.types[id] < 1 ||
        vocabulary.types[id] > 6) {
      return absl::InvalidArgumentError(absl::StrCat("'", Key("tokens"), "': token ", id,
                                                     " is not UTF-8 or has an unknown type"));
    }
  }
  ASSIGN_OR_RETURN(vocabulary.bos, ReadTokenId(metadata, "bos_token_id", size));
  ASSIGN_OR_RETURN(vocabulary.eos, ReadTokenId(metadata, "eos_token_id", size));
  return vocabulary;
}

absl::StatusOr<json> ReadMerges(const GgufMetadata& metadata) {
  json merges = json::array();
  RETURN_IF_ERROR(
      metadata.EachString(Key("merges"), kMaxMerges, [&](std::string_view text) -> absl::Status {
        const size_t space = text.find(' ');
        if (space == 0 || space + 1 >= text.size() || space == text.npos || !IsValidUtf8(text)) {
          return absl::InvalidArgumentError(
              absl::StrCat("'", Key("merges"), "': merge ", merges.size(), " is not two tokens"));
        }
        merges.push_back(text);
        return absl::OkStatus();
      }));
  return merges;
}

// The `model` and `added_tokens` of a tokenizer.json.
absl::Status FillTokens(const GgufMetadata& metadata,
                        const Vocabulary& vocabulary,
                        bool ignore_merges,
                        json& file) {
  ASSIGN_OR_RETURN(json merges, ReadMerges(metadata));
  json vocab = json::object();
  json added = json::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    if (!vocab.emplace(token, id).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", Key("tokens"), "': token ", id, " stands twice"));
    }
    const int64_t type = vocabulary.types[id];
    if (type != kControl && type != kUserDefined) continue;
    added.push_back(
        {{"id", id}, {"content", token}, {"special", type == kControl}, {"normalized", false}});
  }
  file["added_tokens"] = std::move(added);
  file["model"] = {{"type", "BPE"}, {"ignore_merges", ignore_merges}};
  file["model"]["vocab"] = std::move(vocab);
  file["model"]["merges"] = std::move(merges);
  return absl::OkStatus();
}

json PreTokenizerSteps(const PreTokenizerRow& row) {
  json steps = json::array();
  if (row.splits_digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  if (row.pattern != nullptr) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", row.pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  steps.push_back({{"type", "ByteLevel"},
                   {"add_prefix_space", false},
                   {"trim_offsets", true},
                   {"use_regex", row.pattern == nullptr}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

// What stands before and after every text.
absl::StatusOr<json> PostProcessor(const GgufMetadata& metadata,
                                   const Vocabulary& vocabulary,
                                   bool adds_bos) {
  ASSIGN_OR_RETURN(const bool bos, metadata.Bool(Key("add_bos_token"), adds_bos));
  ASSIGN_OR_RETURN(const bool eos, metadata.Bool(Key("add_eos_token"), false));
  for (const bool is_bos : {true, false}) {
    if (!(is_bos ? bos : eos) || (is_bos ? vocabulary.bos : vocabulary.eos).has_value()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("'", Key(is_bos ? "bos_token_id" : "eos_token_id"), "' is missing"));
  }
  json single = json::array();
  json tokens = json::object();
  if (bos) single.push_back({{"SpecialToken", {{"id", "bos"}, {"type_id", 0}}}});
  if (bos) tokens["bos"] = {{"ids", {*vocabulary.bos}}};
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (eos) single.push_back({{"SpecialToken", {{"id", "eos"}, {"type_id", 0}}}});
  if (eos) tokens["eos"] = {{"ids", {*vocabulary.eos}}};
  return json{{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", tokens}};
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadBytePairs(const GgufMetadata& metadata,
                                                         int64_t max_tokens) {
  ASSIGN_OR_RETURN(const PreTokenizerRow row, FindPreTokenizer(metadata));
  ASSIGN_OR_RETURN(const bool prefix, metadata.Bool(Key("add_space_prefix"), false));
  if (prefix) {
    return absl::UnimplementedError(
        absl::StrCat("'", Key("add_space_prefix"), "' true with byte pairs is not supported"));
  }
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(metadata, max_tokens));
  json file = json::object();
  RETURN_IF_ERROR(FillTokens(metadata, vocabulary, row.ignores_merges, file));
  if (row.composes) file["normalizer"] = {{"type", "NFC"}};
  file["pre_tokenizer"] = PreTokenizerSteps(row);
  file["decoder"] = {{"type", "ByteLevel"}};
  ASSIGN_OR_RETURN(file["post_processor"], PostProcessor(metadata, vocabulary, row.adds_bos));
  ASSIGN_OR_RETURN(std::unique_ptr<BpeTokenizer> tokenizer, BpeTokenizer::FromJson(file));
  tokenizer->SetBosAndEos(vocabulary.bos, vocabulary.eos);
  return tokenizer;
}

// Some converters mark <unk> as a control token.
absl::Status MarkUnknown(const GgufMetadata& metadata, std::vector<SentencePieceEntry>& pieces) {
  const auto has_kind = [](const auto& entry) { return entry.kind == PieceKind::kUnknown; };
  if (std::any_of(pieces.begin(), pieces.end(), has_kind)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::optional<int32_t> id,
                   ReadTokenId(metadata, "unknown_token_id", pieces.size()));
  if (id.has_value()) {
    pieces[static_cast<size_t>(*id)].kind = PieceKind::kUnknown;
    return absl::OkStatus();
  }
  for (SentencePieceEntry& entry : pieces) {
    if (entry.kind == PieceKind::kControl && entry.piece == "<unk>")
      entry.kind = PieceKind::kUnknown;
  }
  return absl::OkStatus();
}

absl::StatusOr<SentencePieceFile> ReadPieces(const GgufMetadata& metadata, Vocabulary& vocabulary) {
  const auto size = static_cast<int64_t>(vocabulary.tokens.size());
  ASSIGN_OR_RETURN(const std::vector<float> scores, metadata.Floats(Key("scores"), size));
  if (scores.size() != vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", Key("scores"), "' must have one number for each token"));
  }
  SentencePieceFile file;
  file.is_bpe = true;
  for (size_t id = 0; id < scores.size(); ++id) {
    const auto kind = static_cast<PieceKind>(vocabulary.types[id]);
    std::string piece = std::move(vocabulary.tokens[id]);
    // They stand as they are read, but are looked for in escaped text.
    if (kind == PieceKind::kUserDefined)
      piece = absl::StrReplaceAll(piece, {{" ", "\xE2\x96\x81"}});
    file.byte_fallback |= kind == PieceKind::kByte;
    file.pieces.push_back({std::move(piece), scores[id], kind});
  }
  RETURN_IF_ERROR(MarkUnknown(metadata, file.pieces));
  ASSIGN_OR_RETURN(file.add_dummy_prefix, metadata.Bool(Key("add_space_prefix"), true));
  ASSIGN_OR_RETURN(file.remove_extra_whitespaces,
                   metadata.Bool(Key("remove_extra_whitespaces"), false));
  file.has_character_map = metadata.Has(Key("precompiled_charsmap"));
  return file;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadPieces(const GgufMetadata& metadata,
                                                      int64_t max_tokens) {
  ASSIGN_OR_RETURN(Vocabulary vocabulary, ReadVocabulary(metadata, max_tokens));
  ASSIGN_OR_RETURN(const SentencePieceFile file, ReadPieces(metadata, vocabulary));
  const auto named = [](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("'", Key("tokens"), "': ", status.message()));
  };
  const absl::Status checked = file.Check();
  if (!checked.ok()) return named(checked);
  SentencePieceTokenizer::Settings settings;
  ASSIGN_OR_RETURN(settings.add_bos, metadata.Bool(Key("add_bos_token"), true));
  ASSIGN_OR_RETURN(settings.add_eos, metadata.Bool(Key("add_eos_token"), false));
  settings.bos_token_id = vocabulary.bos;
  settings.eos_token_id = vocabulary.eos;
  auto tokenizer = SentencePieceTokenizer::FromFile(file, settings);
  if (!tokenizer.ok()) return named(tokenizer.status());
  return *std::move(tokenizer);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadGgufTokenizer(const GgufMetadata& metadata,
                                                             int64_t max_tokens) {
  ASSIGN_OR_RETURN(const std::string model, metadata.String(Key("model")));
  if (model == "gpt2") return LoadBytePairs(metadata, max_tokens);
  if (model == "llama") return LoadPieces(metadata, max_tokens);
  return absl::UnimplementedError(
      absl::StrCat("'", Key("model"), "' ", QuotedTensorName(model),
                   " is not supported; supported are gpt2 (byte pairs) and llama (SentencePiece)"));
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadGgufChatTemplate(const GgufMetadata& metadata,
                                                                   int64_t max_tokens) {
  ASSIGN_OR_RETURN(const std::string source, metadata.String("tokenizer.chat_template", ""));
  if (source.empty()) return ChatTemplate::Plain();
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(metadata, max_tokens));
  ChatTemplateContext context;
  const auto add = [&](const char* name, const std::optional<int32_t>& id) {
    if (!id.has_value()) return;
    context.special_tokens.emplace_back(name, vocabulary.tokens[static_cast<size_t>(*id)]);
  };
  add("bos_token", vocabulary.bos);
  add("eos_token", vocabulary.eos);
  return ChatTemplate::Parse(source, std::move(context));
}

}  // namespace sluice
