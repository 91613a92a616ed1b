// Loading tokenizer.json: what a malformed or hostile file gives, and which options mean what.
#include <gtest/gtest.h>

#include <fstream>

#include "engine/text/bpe_tokenizer.h"
#include "engine/text/text_runs.h"
#include "tests/text/text_fixtures.h"

namespace sluice {
namespace {

using nlohmann::json;

void ExpectRefused(const json& file, const std::string& part_of_message) {
  const auto tokenizer = BpeTokenizer::FromJson(file);
  ASSERT_FALSE(tokenizer.ok()) << part_of_message;
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(tokenizer.status().message().find(part_of_message), absl::string_view::npos)
      << tokenizer.status();
}

std::unique_ptr<BpeTokenizer> Small() {
  auto tokenizer = BpeTokenizer::FromJson(SmallByteLevelFile());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(TokenizerJsonTest, MergesByRankAndDecodesBack) {
  const auto tokenizer = Small();
  const auto ids = tokenizer->Encode("aaaaabc é", {});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(*ids, (std::vector<int32_t>{258, 'a', 259, ' ', 0xC3, 0xA9}));
  EXPECT_EQ(tokenizer->Decode(*ids, false), "aaaaabc é");
  EXPECT_EQ(tokenizer->summary().vocab_size, 260);
  EXPECT_EQ(tokenizer->TokenBytes(-1, false), "");
  EXPECT_EQ(tokenizer->TokenBytes(260, false), "");
  EXPECT_FALSE(tokenizer->Encode("\xC3", {}).ok());
}

TEST(TokenizerJsonTest, UserTextNeverBecomesASpecialToken) {
  const auto tokenizer = Small();
  EXPECT_EQ(*tokenizer->Encode("<|end|>", {.parse_special_tokens = true}),
            std::vector<int32_t>{256});
  const auto plain = tokenizer->Encode("<|end|>", {});
  ASSERT_TRUE(plain.ok());
  for (const int32_t id : *plain) EXPECT_FALSE(tokenizer->IsSpecial(id));
  EXPECT_EQ(tokenizer->SpecialTokenId("<|end|>"), 256);
  EXPECT_EQ(tokenizer->SpecialTokenId("aa"), std::nullopt);
}

TEST(TokenizerJsonTest, MergesAndWholePiecesNeverYieldASpecialToken) {
  json file = SmallByteLevelFile();
  file["model"]["ignore_merges"] = true;
  file["model"]["merges"] = {"a a"};
  file["added_tokens"].push_back({{"id", 257}, {"content", "aa"}, {"special", true}});
  const auto tokenizer = BpeTokenizer::FromJson(file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("aa", {}), (std::vector<int32_t>{'a', 'a'}));
  EXPECT_EQ(*(*tokenizer)->Encode("aa", {.parse_special_tokens = true}), std::vector<int32_t>{257});
}

TEST(TokenizerJsonTest, RunsKeepMergesButSpecialTokensStayInsideTrustedRuns) {
  const auto tokenizer = Small();
  const auto merged = tokenizer->EncodeRuns({{"aa", true}, {"aa", false}}, false);
  EXPECT_EQ(*merged, std::vector<int32_t>{258});
  const auto forged = tokenizer->EncodeRuns({{"<|en", true}, {"d|>", false}}, false);
  ASSERT_TRUE(forged.ok());
  for (const int32_t id : *forged) EXPECT_NE(id, 256);
  const auto trusted =
      tokenizer->EncodeRuns({{"<|en", true}, {"d|>", true}, {"<|end|>", false}}, false);
  ASSERT_TRUE(trusted.ok());
  EXPECT_EQ(trusted->front(), 256);
  EXPECT_EQ(std::count(trusted->begin(), trusted->end(), 256), 1);
}

TEST(TokenizerJsonTest, MalformedModelsAreRefused) {
  json file = SmallByteLevelFile();
  file["model"]["vocab"]["aa"] = 1;
  ExpectRefused(file, "same id");
  file = SmallByteLevelFile();
  file["model"]["vocab"]["aa"] = -1;
  ExpectRefused(file, "out of range");
  file["model"]["vocab"]["aa"] = 1 << 21;
  ExpectRefused(file, "out of range");
  file["model"]["vocab"]["aa"] = 18446744073709551615u;
  ExpectRefused(file, "out of range");
  file["model"]["vocab"]["aa"] = 257.5;
  ExpectRefused(file, "not an integer");
  file = SmallByteLevelFile();
  file["model"]["vocab"]["hole"] = 300;
  ExpectRefused(file, "not dense");
  file = SmallByteLevelFile();
  file["model"]["merges"].push_back("a nothing");
  ExpectRefused(file, "not in the vocabulary");
  for (const json& merge :
       {json("ab"), json("a b c"), json(7), json::array({"a"}), json::array({"a", 1})}) {
    file = SmallByteLevelFile();
    file["model"]["merges"].push_back(merge);
    ExpectRefused(file, "not two tokens");
  }
  file = SmallByteLevelFile();
  file["model"]["byte_fallback"] = true;
  ExpectRefused(file, "256 byte tokens");
  file = SmallByteLevelFile();
  file["model"]["unk_token"] = "nothing";
  ExpectRefused(file, "unk_token");
  for (const char* type : {"WordPiece", "Unigram", "WordLevel"}) {
    file["model"]["type"] = type;
    ExpectRefused(file, "only BPE");
  }
  ExpectRefused(json::object(), "no model");
  ExpectRefused(json::array(), "object");
}

TEST(TokenizerJsonTest, MalformedAddedTokensAreRefused) {
  const auto with = [](json token) {
    json file = SmallByteLevelFile();
    file["added_tokens"].push_back(std::move(token));
    return file;
  };
  ExpectRefused(with({{"id", 260}, {"content", ""}}), "empty");
  ExpectRefused(with({{"id", 256}, {"content", "x y"}}), "same id");
  ExpectRefused(with({{"id", 5}, {"content", "x y"}}), "contradicts");
  ExpectRefused(with({{"id", 260}, {"content", "aa"}}), "contradicts");
  ExpectRefused(with({{"id", 260}, {"content", "<|end|>"}}), "same content");
  ExpectRefused(with({{"id", -1}, {"content", "x"}}), "between");
  ExpectRefused(with({{"id", 260}, {"content", std::string(2000, 'x')}}), "1 KiB");
  ExpectRefused(with({{"id", 260}}), "missing");
  ExpectRefused(with(7), "not an object");
}

TEST(TokenizerJsonTest, UnknownPartsAreRefusedByName) {
  json file = SmallByteLevelFile();
  file["normalizer"] = {{"type", "Precompiled"}};
  ExpectRefused(file, "Precompiled");
  file = SmallByteLevelFile();
  file["pre_tokenizer"] = {{"type", "UnicodeScripts"}};
  ExpectRefused(file, "UnicodeScripts");
  file = SmallByteLevelFile();
  file["decoder"] = {{"type", "WordPiece"}};
  ExpectRefused(file, "WordPiece");
  file = SmallByteLevelFile();
  file["post_processor"] = {{"type", "BertProcessing"}};
  ExpectRefused(file, "BertProcessing");
}

json WithPattern(const std::string& pattern) {
  json file = SmallByteLevelFile();
  file["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
  return file;
}

TEST(TokenizerJsonTest, HostilePatternsAreRefusedOrStopped) {
  ExpectRefused(WithPattern(std::string(1 << 20, 'a')), "16 KiB");
  ExpectRefused(WithPattern("(a"), "does not compile");
  ExpectRefused(WithPattern("(a)\\1"), "back references");
  ExpectRefused(WithPattern("[a&&b]"), "intersection");
  ExpectRefused(WithPattern("\\C"), "does not compile");
  // Each of these needs exponential or quadratic time on its text without a budget.
  const std::string many_a(1 << 16, 'a');
  for (const char* pattern : {"(a+)+$x", "(a|aa)+$x", "a*x", "(a*)*x", "(?=(a+)+x)", "a*?a*?a*?x",
                              "(?:a?){50}a{50}x", "(?<=a)(a+)+x", "(((a+)+)+)+x"}) {
    const auto tokenizer = BpeTokenizer::FromJson(WithPattern(pattern));
    ASSERT_TRUE(tokenizer.ok()) << pattern << tokenizer.status();
    const auto ids = (*tokenizer)->Encode(many_a, {});
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument) << pattern;
  }
}

TEST(TokenizerJsonTest, StepsThatMultiplyTheTextAreStopped) {
  json file = SmallByteLevelFile();
  const json grow = {
      {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaaaaaaaaaaaaaa"}};
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", {grow, grow, grow, grow}}};
  const auto tokenizer = BpeTokenizer::FromJson(file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_FALSE((*tokenizer)->Encode(std::string(4096, 'a'), {}).ok());
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", {file["normalizer"]}}};
  ExpectRefused(file, "nested");
  file = SmallByteLevelFile();
  const json bytes = file["pre_tokenizer"];
  file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", json::array()}};
  for (int i = 0; i < 20; ++i) file["pre_tokenizer"]["pretokenizers"].push_back(bytes);
  const auto doubling = BpeTokenizer::FromJson(file);
  ASSERT_TRUE(doubling.ok()) << doubling.status();
  EXPECT_FALSE((*doubling)->Encode(std::string(4096, ' '), {}).ok());
}

TEST(TokenizerJsonTest, DirectoriesAndBrokenFilesGiveTypedErrors) {
  EXPECT_EQ(Tokenizer::Load("/nonexistent").status().code(), absl::StatusCode::kNotFound);
  const std::string directory = testing::TempDir() + "/sluice_broken_tokenizer";
  ASSERT_TRUE(::mkdir(directory.c_str(), 0700) == 0 || errno == EEXIST);
  const std::string whole = SmallByteLevelFile().dump();
  for (const std::string& text :
       {std::string(), whole.substr(0, whole.size() / 2), std::string("[]"),
        std::string("{\"model\":{\"a\":1,\"a\":2}}"), std::string(100000, '[')}) {
    std::ofstream(directory + "/tokenizer.json") << text;
    EXPECT_EQ(Tokenizer::Load(directory).status().code(), absl::StatusCode::kInvalidArgument);
  }
  std::ofstream(directory + "/tokenizer.json") << whole;
  std::ofstream(directory + "/tokenizer_config.json") << R"({"eos_token":{"content":"<|end|>"}})";
  const auto tokenizer = Tokenizer::Load(directory);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->summary().eos_token_id, 256);
  EXPECT_EQ((*tokenizer)->summary().bos_token_id, std::nullopt);
}

}  // namespace
}  // namespace sluice
