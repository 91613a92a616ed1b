// The same tokenizers once from their own files and once from the lists of a GGUF file: the same
// ids for the published texts. Broken lists are refused.
#include "engine/text/gguf_tokenizer.h"

#include <gtest/gtest.h>

#include <cstring>

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
  const auto tokenizer = LoadGgufTokenizer(Metadata(BytePairs(file, pre)));
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
  const auto tokenizer = LoadGgufTokenizer(Metadata(Pieces(*file)));
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
    const auto tokenizer = LoadGgufTokenizer(Metadata(pairs));
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
      {"ggml.pre", Text("default"), "'tokenizer.ggml.pre'"},
      {"ggml.tokens", Texts({}), "tokenizer.ggml.tokens"},
      {"ggml.tokens", Texts({"a", "a"}), "equally long"},
      {"ggml.token_type", Text("1"), "tokenizer.ggml.token_type"},
      {"ggml.token_type", Numbers<int32_t>(GgufValueType::kI32, std::vector<int32_t>(260, 9)),
       "unknown type"},
      {"ggml.merges", Texts({"a b c"}), "merge"},
      {"ggml.merges", Texts({"a nosuch"}), "merge"},
      {"ggml.bos_token_id", Id(100'000), "bos_token_id"},
      {"ggml.add_bos_token", Text("yes"), "add_bos_token"},
      {"ggml.add_space_prefix", Bool(true), "add_space_prefix"},
  };
  for (const Broken& each : broken) {
    Pairs pairs = Small();
    pairs[each.key] = each.value;
    const auto tokenizer = LoadGgufTokenizer(Metadata(pairs));
    ASSERT_FALSE(tokenizer.ok()) << each.key << ": " << each.message;
    EXPECT_NE(tokenizer.status().message().find(each.message), absl::string_view::npos)
        << tokenizer.status();
  }
  for (const char* missing : {"ggml.model", "ggml.tokens", "ggml.token_type", "ggml.merges"}) {
    Pairs pairs = Small();
    pairs.erase(missing);
    EXPECT_FALSE(LoadGgufTokenizer(Metadata(pairs)).ok()) << missing;
  }
}

TEST(GgufTokenizer, TheChatTemplateSeesItsTokens) {
  Pairs pairs = Small();
  EXPECT_EQ((*LoadGgufChatTemplate(Metadata(pairs)))->kind(), "built-in");
  pairs["chat_template"] = Text("{{ eos_token }}{{ messages[0]['content'] }}");
  const auto chat = LoadGgufChatTemplate(Metadata(pairs));
  ASSERT_TRUE(chat.ok()) << chat.status();
  const auto segments = (*chat)->Render({{"user", "hello"}}, true);
  ASSERT_TRUE(segments.ok()) << segments.status();
  std::string text;
  for (const PromptSegment& segment : *segments) text += segment.text;
  EXPECT_EQ(text, "<|end|>hello");
  pairs["chat_template"] = Text("{% for %}");
  EXPECT_FALSE(LoadGgufChatTemplate(Metadata(pairs)).ok());
}

}  // namespace
}  // namespace sluice
