// Ids and texts against the reference implementations: published test vectors, and fixtures made
// with the Hugging Face tokenizers package.
#include <gtest/gtest.h>

#include "engine/text/bpe_tokenizer.h"
#include "engine/text/tokenizer.h"
#include "tests/text/text_fixtures.h"

namespace sluice {
namespace {

using nlohmann::json;

void ExpectCases(const Tokenizer& tokenizer, const json& cases) {
  for (const json& one : cases) {
    const std::string text = one["text"];
    const bool parse = one["parse"];
    SCOPED_TRACE(testing::Message() << "text " << one["text"] << " parse " << parse);
    const auto ids =
        tokenizer.Encode(text, {.add_special_tokens = true, .parse_special_tokens = parse});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, one["ids"].get<std::vector<int32_t>>());
    EXPECT_EQ(tokenizer.Decode(*ids, /*keep_special=*/false), one["decoded"].get<std::string>());
  }
}

void ExpectVectors(const std::string& directory, const std::string& vectors) {
  const std::string base = "../shared/data/tokenizers/";
  if (!FileExists(SourcePath(base + vectors + ".inp"))) GTEST_SKIP() << "no shared test vectors";
  const auto tokenizer = Tokenizer::Load(SourcePath(base + directory));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string texts = ReadText(SourcePath(base + vectors + ".inp"));
  std::istringstream lines(ReadText(SourcePath(base + vectors + ".out")));
  const std::string separator = "\n__ggml_vocab_test__\n";
  int count = 0;
  for (size_t begin = 0, end = 0; (end = texts.find(separator, begin)) != std::string::npos;
       begin = end + separator.size()) {
    const std::string text = texts.substr(begin, end - begin);
    std::string line;
    ASSERT_TRUE(std::getline(lines, line));
    std::istringstream numbers(line);
    std::vector<int32_t> expected;
    for (int32_t id = 0; numbers >> id;) expected.push_back(id);
    const auto ids = (*tokenizer)->Encode(text, {.add_special_tokens = false});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, expected) << text;
    EXPECT_EQ((*tokenizer)->Decode(*ids, /*keep_special=*/true), text);
    ++count;
  }
  EXPECT_EQ(count, 46);
}

TEST(TokenizerParityTest, Gpt2GivesThePublishedIds) { ExpectVectors("gpt2", "vectors/gpt-2"); }

TEST(TokenizerParityTest, QwenGivesThePublishedIds) { ExpectVectors("qwen3", "vectors/qwen2"); }

TEST(TokenizerParityTest, EveryPartOfTheFileFormatMatchesTheReference) {
  const json files = ReadFixture("tokenizer_cases.json");
  ASSERT_GE(files.size(), 15u);
  for (const json& file : files) {
    SCOPED_TRACE(file["name"]);
    const auto tokenizer = BpeTokenizer::FromJson(file["tokenizer"]);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    ExpectCases(**tokenizer, file["cases"]);
  }
}

TEST(TokenizerParityTest, PublishedAndShippedFilesMatchTheReference) {
  int num_found = 0;
  for (const json& entry : ReadFixture("shared_cases.json")) {
    const std::string directory = SourcePath(entry["directory"]);
    if (!FileExists(directory + "/tokenizer.json")) continue;
    SCOPED_TRACE(directory);
    const auto tokenizer = Tokenizer::Load(directory);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    ExpectCases(**tokenizer, entry["cases"]);
    ++num_found;
  }
  if (num_found == 0) GTEST_SKIP() << "no tokenizers found";
}

}  // namespace
}  // namespace sluice
