#include "engine/text/incremental_detokenizer.h"

#include <gtest/gtest.h>

#include "engine/json_reader.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/utf8.h"
#include "tests/text/text_fixtures.h"

namespace sluice {
namespace {

class IncrementalDetokenizerTest : public testing::Test {
 protected:
  IncrementalDetokenizerTest() : tokenizer_(*BpeTokenizer::FromJson(SmallByteLevelFile())) {}
  std::unique_ptr<BpeTokenizer> tokenizer_;
};

TEST_F(IncrementalDetokenizerTest, HoldsBackUnfinishedCharacters) {
  IncrementalDetokenizer detokenizer(*tokenizer_, true, false);
  EXPECT_EQ(detokenizer.Append(0xF0), "");
  EXPECT_EQ(detokenizer.Append(0x9F), "");
  EXPECT_EQ(detokenizer.Append(0xA6), "");
  EXPECT_EQ(detokenizer.Append(0x99), "🦙");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST_F(IncrementalDetokenizerTest, ReplacesBytesThatCanNotBecomeACharacter) {
  IncrementalDetokenizer detokenizer(*tokenizer_, true, false);
  EXPECT_EQ(detokenizer.Append(0xE2), "");
  EXPECT_EQ(detokenizer.Append('a'),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(detokenizer.Append(0x80), "\xEF\xBF\xBD");
  EXPECT_EQ(detokenizer.Append(0xF0), "");
  EXPECT_EQ(detokenizer.Append(0x9F), "");
  EXPECT_EQ(detokenizer.Flush(), "\xEF\xBF\xBD");
}

TEST_F(IncrementalDetokenizerTest, SpecialTokensAddTextOnlyWhenKept) {
  IncrementalDetokenizer skipping(*tokenizer_, true, false);
  EXPECT_EQ(skipping.Append(256), "");
  IncrementalDetokenizer keeping(*tokenizer_, false, false);
  EXPECT_EQ(keeping.Append(256), "<|end|>");
  EXPECT_EQ(keeping.Append(9999), "");
}

TEST_F(IncrementalDetokenizerTest, RandomBytesAlwaysGiveValidPiecesThatAddUp) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    TestRandom random(seed);
    IncrementalDetokenizer detokenizer(*tokenizer_, true, false);
    std::string bytes;
    std::string streamed;
    for (size_t i = random.Below(40); i > 0; --i) {
      // Mostly lead and continuation bytes, so that every kind of breakage comes up.
      const auto byte =
          static_cast<int32_t>(random.Below(3) == 0 ? random.Below(256) : 0x80 + random.Below(128));
      bytes += static_cast<char>(byte);
      const std::string piece = detokenizer.Append(byte);
      ASSERT_TRUE(IsValidUtf8(piece));
      streamed += piece;
    }
    streamed += detokenizer.Flush();
    ASSERT_TRUE(IsValidUtf8(streamed));
    EXPECT_EQ(streamed, TakeUtf8(bytes, true));
  }
}

TEST_F(IncrementalDetokenizerTest, SplitTextComesBackWhole) {
  const std::string text = "naïve 中文 🦙👨‍👩‍👧 ½";
  IncrementalDetokenizer detokenizer(*tokenizer_, true, false);
  std::string streamed;
  for (const char byte : text) streamed += detokenizer.Append(static_cast<unsigned char>(byte));
  EXPECT_EQ(streamed + detokenizer.Flush(), text);
}

TEST(TakeUtf8Test, ReplacesMaximalPartsAsTheUnicodeStandardRecommends) {
  const auto take = [](std::string bytes) { return TakeUtf8(bytes, true); };
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(take("\xC0\xAF"), r + r);                  // overlong
  EXPECT_EQ(take("\xED\xA0\x80"), r + r + r);          // surrogate
  EXPECT_EQ(take("\xF4\x90\x80\x80"), r + r + r + r);  // above U+10FFFF
  EXPECT_EQ(take("\xF0\x9F\xA6"
                 "a"),
            r + "a");  // truncated
  EXPECT_EQ(take("\xE2\x82"), r);
}

}  // namespace
}  // namespace sluice
