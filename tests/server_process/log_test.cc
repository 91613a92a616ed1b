#include "engine/log.h"

#include "gtest/gtest.h"

namespace sluice {
namespace {

TEST(LogTest, TextIsKeyValue) {
  EXPECT_EQ(FormatLogLine(LogFormat::kText, LogLevel::kInfo, "request",
                          {{"api", "chat"}, {"tokens", 12}, {"ms", 1.5}}),
            "info request api=chat tokens=12 ms=1.5");
}

TEST(LogTest, JsonQuotesStringsOnly) {
  EXPECT_EQ(FormatLogLine(LogFormat::kJson, LogLevel::kError, "request",
                          {{"api", "chat"}, {"tokens", 12}}),
            R"("level":"error","event":"request","api":"chat","tokens":12)");
}

TEST(LogTest, AValueCannotForgeALineOrAField) {
  EXPECT_EQ(FormatLogLine(LogFormat::kText, LogLevel::kWarning, "event",
                          {{"id", "a\nerror forged key=1"}, {"quote", "x\"y"}, {"empty", ""}}),
            "warning event id=\"a\\nerror forged key=1\" quote=\"x\\\"y\" empty=\"\"");
  EXPECT_EQ(
      FormatLogLine(LogFormat::kJson, LogLevel::kInfo, "event", {{"id", "\",\"level\":\"x\x01"}}),
      "\"level\":\"info\",\"event\":\"event\",\"id\":\"\\\",\\\"level\\\":\\\"x\\u0001\"");
}

TEST(LogTest, TerminalEscapesAreHarmless) {
  EXPECT_EQ(FormatLogLine(LogFormat::kText, LogLevel::kInfo, "event", {{"id", "\x1b[31m"}}),
            "info event id=\"\\u001b[31m\"");
}

TEST(LogTest, LogsAfterAFlush) {
  StartLog(LogFormat::kText, LogLevel::kError);
  Log(LogLevel::kInfo, "not shown");
  FlushLog();
  FlushLog();
  Log(LogLevel::kInfo, "shown again with the default log");
  FlushLog();
  EXPECT_EQ(LogLinesDropped(), 0u);
}

}  // namespace
}  // namespace sluice
