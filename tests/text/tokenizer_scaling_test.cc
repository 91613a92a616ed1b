// Cost of tokenizing hostile text. Time bounds are generous (shared machines); the ratio between
// sizes is what tells linear from quadratic.
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>

#include "engine/text/bpe_tokenizer.h"
#include "engine/text/normalizer.h"
#include "tests/text/text_fixtures.h"

namespace sluice {
namespace {

// Thread CPU time, which other processes do not disturb.
double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::string Repeat(const std::string& unit, size_t bytes) {
  std::string text;
  while (text.size() + unit.size() <= bytes) text += unit;
  return text;
}

double EncodeSeconds(const Tokenizer& tokenizer, const std::string& text) {
  double best = 1e9;
  for (int attempt = 0; attempt < 2; ++attempt) {
    const double start = CpuSeconds();
    const auto ids = tokenizer.Encode(text, {});
    best = std::min(best, CpuSeconds() - start);
    EXPECT_TRUE(ids.ok()) << ids.status();
  }
  return best;
}

void ExpectNearLinear(const Tokenizer& tokenizer, double max_seconds) {
  const std::vector<std::string> units = {"a",   "^", " ", "😀", "\n", "1", "x\xCC\xA3\xCC\x81",
                                          "ab ", "' "};
  for (const std::string& unit : units) {
    SCOPED_TRACE(unit);
    const double small = EncodeSeconds(tokenizer, Repeat(unit, 1 << 16));
    const double large = EncodeSeconds(tokenizer, Repeat(unit, 1 << 18));
    EXPECT_LT(large, max_seconds);
    EXPECT_LT(large, 12 * small + 0.02) << "four times the text";
  }
}

TEST(TokenizerScalingTest, HostileTextIsNearLinear) {
  const auto small = BpeTokenizer::FromJson(SmallByteLevelFile());
  ASSERT_TRUE(small.ok());
  ExpectNearLinear(**small, 2.5);
}

TEST(TokenizerScalingTest, PublishedTokenizersAreNearLinear) {
  int num_found = 0;
  for (const char* name : {"gpt2", "qwen3", "mistral-v1"}) {
    const auto tokenizer =
        Tokenizer::Load(SourcePath(std::string("../shared/data/tokenizers/") + name));
    if (!tokenizer.ok()) continue;
    SCOPED_TRACE(name);
    ExpectNearLinear(**tokenizer, 2.5);
    ++num_found;
  }
  if (num_found == 0) GTEST_SKIP() << "no shared tokenizers";
}

TEST(TokenizerScalingTest, OneMebibyteOfOneLetterIsNoProblem) {
  const auto small = BpeTokenizer::FromJson(SmallByteLevelFile());
  ASSERT_TRUE(small.ok());
  EXPECT_LT(EncodeSeconds(**small, Repeat("a", 1 << 20)), 5.0);
}

TEST(TokenizerScalingTest, NormalisingLongRunsOfMarksIsNearLinear) {
  const auto seconds = [](size_t bytes) {
    const std::string text = std::string("a").append(Repeat("\xCC\x81\xCC\xA3", bytes));
    const double start = CpuSeconds();
    EXPECT_EQ(NormalizeUnicode(text, UnicodeForm::kNfd).size(), text.size());
    return CpuSeconds() - start;
  };
  const double small = seconds(1 << 18);
  EXPECT_LT(seconds(1 << 20), 12 * small + 0.05);
}

TEST(TokenizerScalingTest, LongPiecesMergeExactlyAsShortOnes) {
  // The queue for long pieces and the scan for short ones must agree: a long piece of separate
  // words merges word by word, because no merge crosses '-'.
  const auto tokenizer = BpeTokenizer::FromJson([] {
    nlohmann::json file = SmallByteLevelFile();
    file["pre_tokenizer"] = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
    return file;
  }());
  ASSERT_TRUE(tokenizer.ok());
  const uint64_t seed = 20;
  SCOPED_TRACE(seed);
  TestRandom random(seed);
  std::string text;
  std::vector<int32_t> expected;
  for (int word = 0; word < 2000; ++word) {
    std::string letters;
    for (size_t i = random.Below(12); i > 0; --i) letters += "aaabc"[random.Below(5)];
    letters += '-';
    const auto ids = (*tokenizer)->Encode(letters, {});
    ASSERT_TRUE(ids.ok());
    expected.insert(expected.end(), ids->begin(), ids->end());
    text += letters;
  }
  EXPECT_EQ(*(*tokenizer)->Encode(text, {}), expected);
}

}  // namespace
}  // namespace sluice
