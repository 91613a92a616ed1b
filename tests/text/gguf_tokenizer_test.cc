// The same tokenizers once from their own files and once from the lists of a GGUF file: the same
// ids for the published texts. Broken lists are refused.
#include "engine/text/gguf_tokenizer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "engine/text/sentencepiece_file.h"
#include "tests/text/text_fixtures.h"

namespace sluice {
namespace {

using nlohmann::json;

template <typename T>
std::string Raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}
GgufValue Text(const std::string& text) {
  return {GgufValueType::kString, GgufValueType::kU8, 0, text};
}
GgufValue Bool(bool value) {
  return {GgufValueType::kBool, GgufValueType::kU8, 0, std::string(1, value ? '\1' : '\0')};
}
GgufValue Id(uint32_t id) { return {GgufValueType::kU32, GgufValueType::kU8, 0, Raw(id)}; }
GgufValue Texts(const std::vector<std::string>& texts) {
  GgufValue value{GgufValueType::kArray, GgufValueType::kString, static_cast<int64_t>(texts.size()),
                  ""};
  for (const std::string& text : texts) value.bytes += Raw<uint64_t>(text.size()) + text;
  return value;
}
template <typename T>
GgufValue Numbers(GgufValueType type, const std::vector<T>& numbers) {
  GgufValue value{GgufValueType::kArray, type, static_cast<int64_t>(numbers.size()), ""};
  for (const T number : numbers) value.bytes += Raw(number);
  return value;
}

constexpr int64_t kRows = 1 << 20;  // of an embedding that is large enough

using Pairs = std::map<std::string, GgufValue>;
GgufMetadata Metadata(const Pairs& pairs) {
  GgufMetadata metadata;
  for (const auto& [key, value] : pairs) metadata.Insert("tokenizer." + key, value);
  return metadata;
}

// What the converter writes for a tokenizer.json.
Pairs BytePairs(const json& file, const std::string& pre) {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  const auto place = [&](size_t id, const std::string& token, int32_t type) {
    if (id >= tokens.size()) tokens.resize(id + 1);
    types.resize(tokens.size(), 1);
    tokens[id] = token;
    types[id] = type;
  };
  for (const auto& [token, id] : file["model"]["vocab"].items()) place(id, token, 1);
  for (const json& token : file["added_tokens"]) {
    place(token["id"], token["content"], token["special"].get<bool>() ? 3 : 4);
  }
  std::vector<std::string> merges;
  for (const json& merge : file["model"]["merges"]) {
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  return {{"ggml.model", Text("gpt2")},
          {"ggml.pre", Text(pre)},
          {"ggml.tokens", Texts(tokens)},
          {"ggml.token_type", Numbers(GgufValueType::kI32, types)},
          {"ggml.merges", Texts(merges)}};
}

void ExpectSameIds(const Tokenizer& tokenizer, const Tokenizer& reference) {
  const std::string texts = ReadText(SourcePath("../shared/data/tokenizers/vectors/gpt-2.inp")) +
                            ReadText(SourcePath("../shared/data/tokenizers/vectors/qwen2.inp")) +
                            " 12345 e\xCC\x81 ";
  size_t begin = 0;
  int count = 0;
  for (size_t end = 0; (end = texts.find("\n__ggml_vocab_test__\n", begin)) != std::string::npos;
       begin = end + 21, ++count) {
    const std::string text = texts.substr(begin, end - begin);
    const auto ids = tokenizer.Encode(text, {});
    const auto expected = reference.Encode(text, {});
    ASSERT_TRUE(ids.ok() && expected.ok()) << ids.status() << expected.status();
    ASSERT_EQ(*ids, *expected) << text;
    EXPECT_EQ(tokenizer.Decode(*ids, true), reference.Decode(*expected, true));
  }
  EXPECT_EQ(count, 92);
}

void ExpectSameBytePairs(const std::string& directory, const std::string& pre) {
  const std::string path = SourcePath("../shared/data/tokenizers/" + directory);
  if (!FileExists(path)) GTEST_SKIP() << "no shared tokenizers";
  const json file = json::parse(ReadText(path + "/tokenizer.json"));
  const auto tokenizer = LoadGgufTokenizer(Metadata(BytePairs(file, pre)), kRows);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto reference = Tokenizer::Load(path);
  ASSERT_TRUE(reference.ok()) << reference.status();
  ExpectSameIds(**tokenizer, **reference);
}

TEST(GgufTokenizer, Gpt2) { ExpectSameBytePairs("gpt2", "gpt-2"); }
TEST(GgufTokenizer, Qwen) { ExpectSameBytePairs("qwen3", "qwen2"); }

Pairs Pieces(const SentencePieceFile& file) {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<float> scores;
  for (const SentencePieceEntry& entry : file.pieces) {
    tokens.push_back(entry.piece);
    types.push_back(static_cast<int32_t>(entry.kind));
    scores.push_back(entry.score);
  }
  return {{"ggml.model", Text("llama")},
          {"ggml.tokens", Texts(tokens)},
          {"ggml.token_type", Numbers(GgufValueType::kI32, types)},
          {"ggml.scores", Numbers(GgufValueType::kF32, scores)},
          {"ggml.bos_token_id", Id(1)},
          {"ggml.eos_token_id", Id(2)}};
}

TEST(GgufTokenizer, SentencePiece) {
  const std::string path = SourcePath("../shared/data/tokenizers/mistral-v1");
  if (!FileExists(path)) GTEST_SKIP() << "no shared tokenizers";
  const auto file = SentencePieceFile::Parse(ReadText(path + "/tokenizer.model"));
  ASSERT_TRUE(file.ok());
  const auto tokenizer = LoadGgufTokenizer(Metadata(Pieces(*file)), kRows);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->summary().bos_token_id, 1);
  ExpectSameIds(**tokenizer, **Tokenizer::Load(path));
}

// The 256 bytes, "<|end|>" and three merges.
Pairs Small() {
  Pairs pairs = BytePairs(SmallByteLevelFile(), "llama-bpe");
  pairs["ggml.bos_token_id"] = Id(256);
  pairs["ggml.eos_token_id"] = Id(256);
  return pairs;
}

TEST(GgufTokenizer, WhatStandsAroundATextFollowsTheFlags) {
  Pairs pairs = Small();
  const auto ids = [&](bool add) {
    const auto tokenizer = LoadGgufTokenizer(Metadata(pairs), kRows);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return *(*tokenizer)->Encode("z", {.add_special_tokens = add});
  };
  const std::vector<int32_t> plain = ids(false);
  ASSERT_EQ(plain.size(), 1u);
  EXPECT_EQ(ids(true), (std::vector<int32_t>{256, plain[0]})) << "this kind begins with bos";
  pairs["ggml.add_bos_token"] = Bool(false);
  pairs["ggml.add_eos_token"] = Bool(true);
  EXPECT_EQ(ids(true), (std::vector<int32_t>{plain[0], 256}));
}

TEST(GgufTokenizer, BrokenListsAreRefused) {
  struct Broken {
    const char* key;
    GgufValue value;
    const char* message;
  };
  const Broken broken[] = {
      {"ggml.model", Text("bert"), "'tokenizer.ggml.model'"},
      {"ggml.pre", Text("nosuch"), "'tokenizer.ggml.pre'"},
      {"ggml.pre", Text("default"), "convert the model again with a newer llama.cpp"},
      {"ggml.tokens", Texts({}), "tokenizer.ggml.tokens"},
      {"ggml.tokens", Texts({"a", "a"}), "equally long"},
      {"ggml.token_type", Text("1"), "tokenizer.ggml.token_type"},
      {"ggml.token_type", Numbers<int32_t>(GgufValueType::kI32, std::vector<int32_t>(260, 9)),
       "unknown type"},
      {"ggml.merges", Texts({"a b c"}), "merge"},
      {"ggml.merges", Texts({"a a", ""}), "merge 1 is not two tokens"},
      {"ggml.merges", Texts({"aa"}), "merge 0 is not two tokens"},
      {"ggml.merges", Texts({"a "}), "merge 0 is not two tokens"},
      {"ggml.merges", Texts({"a nosuch"}), "merge"},
      {"ggml.bos_token_id", Id(100'000), "bos_token_id"},
      {"ggml.add_bos_token", Text("yes"), "add_bos_token"},
      {"ggml.add_space_prefix", Bool(true), "add_space_prefix"},
  };
  for (const Broken& each : broken) {
    Pairs pairs = Small();
    pairs[each.key] = each.value;
    const auto tokenizer = LoadGgufTokenizer(Metadata(pairs), kRows);
    ASSERT_FALSE(tokenizer.ok()) << each.key << ": " << each.message;
    EXPECT_NE(tokenizer.status().message().find(each.message), absl::string_view::npos)
        << tokenizer.status();
  }
  for (const char* missing : {"ggml.model", "ggml.tokens", "ggml.token_type", "ggml.merges"}) {
    Pairs pairs = Small();
    pairs.erase(missing);
    EXPECT_FALSE(LoadGgufTokenizer(Metadata(pairs), kRows).ok()) << missing;
  }
}

TEST(GgufTokenizer, TheMissingTokenIsNamed) {
  for (const char* missing : {"bos", "eos"}) {
    Pairs pairs = Small();
    pairs["ggml.add_bos_token"] = Bool(true);
    pairs["ggml.add_eos_token"] = Bool(true);
    pairs.erase("ggml." + std::string(missing) + "_token_id");
    const absl::Status status = LoadGgufTokenizer(Metadata(pairs), kRows).status();
    EXPECT_NE(status.message().find(std::string(missing) + "_token_id' is missing"),
              absl::string_view::npos)
        << status;
  }
}

TEST(GgufTokenizer, ThereAreNoMoreTokensThanRowsOfTheEmbedding) {
  Pairs pairs = Small();
  pairs["chat_template"] = Text("x");
  EXPECT_TRUE(LoadGgufTokenizer(Metadata(pairs), 260).ok());
  EXPECT_FALSE(LoadGgufTokenizer(Metadata(pairs), 259).ok());
  EXPECT_FALSE(LoadGgufChatTemplate(Metadata(pairs), 259).ok());
}

TEST(GgufTokenizer, OtherNamesOfTheSamePattern) {
  const std::vector<std::vector<const char*>> same = {
      {"gpt-2", "phi-2", "olmo"},
      {"smollm", "refact", "starcoder", "codeshell", "minerva-7b"},
      {"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"},
      {"qwen2", "deepseek-r1-qwen", "kormo", "megrez"}};
  std::set<std::vector<int32_t>> different;
  for (const auto& names : same) {
    std::set<std::vector<int32_t>> found;
    for (const char* name : names) {
      Pairs pairs = Small();
      pairs["ggml.pre"] = Text(name);
      // Digits that merge show how they were cut.
      pairs["ggml.tokens"].bytes += Raw<uint64_t>(2) + "12" + Raw<uint64_t>(4) + "1212";
      pairs["ggml.tokens"].count += 2;
      pairs["ggml.token_type"].bytes += Raw<int32_t>(1) + Raw<int32_t>(1);
      pairs["ggml.token_type"].count += 2;
      pairs["ggml.merges"] = Texts({"1 2", "12 12"});
      const auto tokenizer = LoadGgufTokenizer(Metadata(pairs), kRows);
      ASSERT_TRUE(tokenizer.ok()) << name << tokenizer.status();
      found.insert(*(*tokenizer)->Encode("a1212 e\xCC\x81", {}));
    }
    EXPECT_EQ(found.size(), 1u) << names[0];
    different.insert(found.begin(), found.end());
  }
  EXPECT_EQ(different.size(), same.size());
}

// <unk>, <s>, </s>, the bytes, three letters and what `more` adds.
SentencePieceFile SmallPieceFile(const std::vector<SentencePieceEntry>& more) {
  SentencePieceFile file;
  file.pieces = {{"<unk>", 0, PieceKind::kUnknown},
                 {"<s>", 0, PieceKind::kControl},
                 {"</s>", 0, PieceKind::kControl}};
  const char* hex = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte) {
    file.pieces.push_back(
        {std::string("<0x") + hex[byte / 16] + hex[byte % 16] + ">", 0, PieceKind::kByte});
  }
  for (const char* letter : {"\xE2\x96\x81", "a", "b"}) file.pieces.push_back({letter, -9});
  file.pieces.insert(file.pieces.end(), more.begin(), more.end());
  return file;
}

std::vector<int32_t> Ids(const Pairs& pairs, const std::string& text) {
  const auto tokenizer = LoadGgufTokenizer(Metadata(pairs), kRows);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  if (!tokenizer.ok()) return {};
  return *(*tokenizer)->Encode(text, {.add_special_tokens = false});
}

TEST(GgufTokenizer, TheUnknownPieceMayBeMarkedAsControl) {
  SentencePieceFile file = SmallPieceFile({});
  file.pieces[0].kind = PieceKind::kControl;
  Pairs pairs = Pieces(file);
  EXPECT_TRUE(LoadGgufTokenizer(Metadata(pairs), kRows).ok()) << "by its text";
  file.pieces[0].piece = "[UNK]";
  pairs = Pieces(file);
  const absl::Status status = LoadGgufTokenizer(Metadata(pairs), kRows).status();
  EXPECT_EQ(status.message(), "'tokenizer.ggml.tokens': there must be one unknown piece (<unk>)");
  pairs["ggml.unknown_token_id"] = Id(0);
  EXPECT_TRUE(LoadGgufTokenizer(Metadata(pairs), kRows).ok()) << "by its id";
}

TEST(GgufTokenizer, UnusedPiecesAreIdsThatNoTextBecomes) {
  const Pairs pairs = Pieces(SmallPieceFile({{"ab", -1}, {"[PAD263]", 0, PieceKind::kUnused}}));
  EXPECT_EQ((*LoadGgufTokenizer(Metadata(pairs), kRows))->summary().vocab_size, 264);
  EXPECT_EQ(Ids(pairs, "ab"), (std::vector<int32_t>{259, 262}));
  for (const int32_t id : Ids(pairs, "[PAD263]")) EXPECT_LT(id, 262);
  // Those that could be made of others are refused.
  for (const char* piece : {"ba", "c"}) {
    const Pairs made = Pieces(SmallPieceFile({{piece, -1, PieceKind::kUnused}}));
    EXPECT_FALSE(LoadGgufTokenizer(Metadata(made), kRows).ok()) << piece;
  }
}

TEST(GgufTokenizer, UserDefinedPiecesStandWithTheirSpaces) {
  for (const char* piece : {"a b",
                            "a\xE2\x96\x81"
                            "b"}) {
    const Pairs pairs = Pieces(SmallPieceFile({{piece, 0, PieceKind::kUserDefined}}));
    EXPECT_EQ(Ids(pairs, "ba bb"), (std::vector<int32_t>{259, 261, 262, 261})) << piece;
  }
}

TEST(GgufTokenizer, BrokenPiecesAreRefusedByTheirRule) {
  struct Broken {
    SentencePieceEntry piece;
    const char* message;
  };
  const Broken broken[] = {{{"a", 0}, "piece 262 is repeated"},
                           {{"", 0}, "piece 262 is empty"},
                           {{"x", 0, PieceKind::kByte}, "piece 262 is marked as a byte"},
                           {{"x", 0, PieceKind::kUnknown}, "one unknown piece"}};
  for (const Broken& each : broken) {
    const Pairs pairs = Pieces(SmallPieceFile({each.piece}));
    const std::string message(LoadGgufTokenizer(Metadata(pairs), kRows).status().message());
    EXPECT_NE(message.find(each.message), std::string::npos) << message;
    EXPECT_EQ(message.find("tokenizer.model"), std::string::npos) << message;
  }
}

TEST(GgufTokenizer, TheChatTemplateSeesItsTokens) {
  Pairs pairs = Small();
  EXPECT_EQ((*LoadGgufChatTemplate(Metadata(pairs), kRows))->kind(), "built-in");
  pairs["chat_template"] = Text("{{ eos_token }}{{ messages[0]['content'] }}");
  const auto chat = LoadGgufChatTemplate(Metadata(pairs), kRows);
  ASSERT_TRUE(chat.ok()) << chat.status();
  const auto segments = (*chat)->Render({{"user", "hello"}}, true);
  ASSERT_TRUE(segments.ok()) << segments.status();
  std::string text;
  for (const PromptSegment& segment : *segments) text += segment.text;
  EXPECT_EQ(text, "<|end|>hello");
  pairs["chat_template"] = Text("{% for %}");
  EXPECT_FALSE(LoadGgufChatTemplate(Metadata(pairs), kRows).ok());
}

}  // namespace
}  // namespace sluice
