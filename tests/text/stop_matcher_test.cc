#include "engine/text/stop_matcher.h"

#include <gtest/gtest.h>

#include "tests/text/text_fixtures.h"

namespace sluice {
namespace {

// Where the earliest-ending, then longest, stop string ends in `text`; npos when none does.
struct NaiveMatch {
  size_t end = std::string::npos;
  std::string stop;
};
NaiveMatch FindNaively(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    NaiveMatch best;
    for (const std::string& stop : stops) {
      const bool ends_here =
          stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0;
      if (ends_here && stop.size() > best.stop.size()) best = {end, stop};
    }
    if (!best.stop.empty()) return best;
  }
  return {};
}

TEST(StopMatcherTest, HoldsBackWhatMayBecomeAStopString) {
  StopMatcher matcher({"END", "STOP"});
  EXPECT_EQ(matcher.Append("abcE", false).text, "abc");
  EXPECT_EQ(matcher.Append("N", false).text, "");
  EXPECT_EQ(matcher.Append("xS", false).text, "ENx");
  const StopMatcher::Result result = matcher.Append("TOPmore", false);
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.stop, "STOP");
}

TEST(StopMatcherTest, IncludesTheStopStringOnRequest) {
  StopMatcher matcher({"\n\n"});
  EXPECT_EQ(matcher.Append("a\n", true).text, "a");
  const StopMatcher::Result result = matcher.Append("\nb", true);
  EXPECT_EQ(result.text, "\n\n");
  EXPECT_EQ(result.stop, "\n\n");
}

TEST(StopMatcherTest, WithoutStopStringsEverythingPasses) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Append("text", false).text, "text");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, FlushReturnsWhatWasHeldBack) {
  StopMatcher matcher({"abc"});
  EXPECT_EQ(matcher.Append("xab", false).text, "x");
  EXPECT_EQ(matcher.Flush(), "ab");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, AgreesWithANaiveSearchOnRandomText) {
  for (uint64_t seed = 1; seed <= 3000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    TestRandom random(seed);
    const auto letters = [&random](size_t length) {
      std::string text;
      for (size_t i = 0; i < length; ++i) text += static_cast<char>('a' + random.Below(3));
      return text;
    };
    std::vector<std::string> stops;
    for (size_t i = random.Below(5); i > 0; --i) stops.push_back(letters(1 + random.Below(6)));
    const std::string text = letters(random.Below(60));
    const bool include_stop = random.Below(2) == 0;
    const NaiveMatch expected = FindNaively(text, stops);

    StopMatcher matcher(stops);
    std::string sent;
    std::optional<std::string> stop;
    for (size_t at = 0; at < text.size() && !stop.has_value();) {
      const size_t length = std::min(text.size() - at, 1 + random.Below(7));
      const StopMatcher::Result result = matcher.Append(text.substr(at, length), include_stop);
      sent += result.text;
      stop = result.stop;
      at += length;
    }
    if (!stop.has_value()) sent += matcher.Flush();
    if (expected.end == std::string::npos) {
      EXPECT_EQ(stop, std::nullopt);
      EXPECT_EQ(sent, text);
    } else {
      EXPECT_EQ(stop, expected.stop);
      EXPECT_EQ(sent, text.substr(0, expected.end - (include_stop ? 0 : expected.stop.size())));
    }
  }
}

TEST(StopMatcherTest, NeverSendsAPrefixOfAStopStringTooEarly) {
  // After any prefix of the text, what was sent plus what a stop string could still claim must be
  // sound: the unsent tail is exactly the longest suffix that starts some stop string.
  const std::vector<std::string> stops = {"aab", "aabaab", "ba"};
  StopMatcher matcher({"aabaac"});
  std::string sent;
  for (const char c : std::string("aabaabaabaaaabaa")) sent += matcher.Append({&c, 1}, false).text;
  EXPECT_EQ(sent, "aabaabaabaa");
  EXPECT_EQ(matcher.Flush(), "aabaa");
}

}  // namespace
}  // namespace sluice
