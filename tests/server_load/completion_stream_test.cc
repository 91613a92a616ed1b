// Bytes of a streamed answer, cut anywhere, to what a request met.
#include "server/load/completion_stream.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/load/response_reader.h"

namespace sluice::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> Events(std::string_view text, size_t piece_bytes) {
  EventStreamParser parser;
  std::vector<std::string> events;
  for (size_t at = 0; at < text.size(); at += piece_bytes) {
    EXPECT_TRUE(parser
                    .Feed(text.substr(at, piece_bytes),
                          [&](std::string_view data) { events.emplace_back(data); })
                    .ok());
  }
  return events;
}

TEST(EventStreamParserTest, EventsAreTheSameHoweverTheBytesAreCut) {
  constexpr std::string_view kText =
      ": ping\n\ndata: one\n\ndata:two\r\n\r\nevent: x\rdata: three\r\rid: 1\ndata: a\ndata:  b\n\n"
      "data\n\nnothing: here\n\ndata: unfinished\n";
  for (size_t bytes = 1; bytes <= kText.size(); ++bytes) {
    EXPECT_THAT(Events(kText, bytes), ElementsAre("one", "two", "three", "a\n b", ""))
        << "pieces of " << bytes;
  }
}

TEST(EventStreamParserTest, CountsLinesThatAreNoFieldAndLimitsAnEvent) {
  EventStreamParser parser;
  const auto ignore = [](std::string_view) {};
  EXPECT_TRUE(parser.Feed("<html>\n{\"a\":1}\n: fine\nretry: 3\n", ignore).ok());
  EXPECT_EQ(parser.num_foreign_lines(), 2);
  const std::string large(600 << 10, 'x');
  EXPECT_TRUE(parser.Feed("data: " + large, ignore).ok());
  EXPECT_FALSE(parser.Feed(large, ignore).ok());
  EventStreamParser lines;
  EXPECT_TRUE(lines.Feed("data: " + large + "\n", ignore).ok());
  EXPECT_FALSE(lines.Feed("data: " + large + "\n", ignore).ok());
}

TEST(CompletionChunkTest, TokensUsageAndErrors) {
  const auto chunk = [](std::string_view text) { return ReadCompletionChunk(text); };
  EXPECT_TRUE(chunk(R"({"choices":[{"text":"a","finish_reason":null}]})")->has_token);
  EXPECT_TRUE(chunk(R"({"choices":[{"text":"","finish_reason":null}]})")->has_token);
  EXPECT_TRUE(chunk(R"({"choices":[{"text":"z","finish_reason":"length"}]})")->has_token);
  EXPECT_FALSE(chunk(R"({"choices":[{"text":"","finish_reason":"length"}]})")->has_token);
  const auto usage = chunk(R"({"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}})");
  ASSERT_TRUE(usage.ok());
  EXPECT_FALSE(usage->has_token);
  EXPECT_EQ(usage->prompt_tokens, 7);
  EXPECT_EQ(usage->completion_tokens, 3);
  EXPECT_EQ(chunk(R"({"error":{"message":"out\nof luck"}})")->error, "out of luck");
  EXPECT_EQ(chunk(R"({"error":"no"})")->error, "no");
  for (const std::string_view bad :
       {"", "{", "[]", "3", "{}", R"({"choices":{}})", R"({"choices":[3]})",
        R"({"choices":[],"usage":{"completion_tokens":-1}})",
        R"({"choices":[],"usage":{"completion_tokens":1e99}})", "\xff"}) {
    EXPECT_FALSE(chunk(bad).ok()) << bad;
  }
}

constexpr char kToken[] = "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}\n\n";

TEST(CompletionStreamTest, TakesTheTimesOfTokensAndTheServersCount) {
  RequestRecord record;
  CompletionStream stream(record, 100);
  EXPECT_TRUE(stream.Feed(200, kToken, absl::Milliseconds(10)));
  EXPECT_FALSE(stream.Feed(200, ": ping\n\n", absl::Milliseconds(11)));
  EXPECT_TRUE(stream.Feed(200, kToken, absl::Milliseconds(14)));
  EXPECT_TRUE(stream.Feed(200, std::string(kToken) + kToken, absl::Milliseconds(20)));
  EXPECT_TRUE(stream.Feed(200, "data: {\"choices\":[],\"usage\":{\"completion_tokens\":4}}\n\n",
                          absl::Milliseconds(21)));
  EXPECT_FALSE(stream.is_over());
  stream.Feed(200, "data: [DONE]\n\n", absl::Milliseconds(22));
  EXPECT_TRUE(stream.is_over());
  EXPECT_EQ(record.end, RequestEnd::kAnswered);
  EXPECT_EQ(record.first_token, absl::Milliseconds(10));
  EXPECT_EQ(record.last_token, absl::Milliseconds(20));
  EXPECT_THAT(record.gaps_ms, ElementsAre(4.0f, 6.0f, 0.0f));
  EXPECT_EQ(record.chunks, 4);
  EXPECT_EQ(record.output_tokens(), 4);
}

struct BadStream {
  int status = 200;
  std::string body;
  RequestEnd end = RequestEnd::kAnswered;
  std::string message;
};

class BadStreamTest : public testing::TestWithParam<BadStream> {};

TEST_P(BadStreamTest, EndsWithItsKindAndAMessage) {
  RequestRecord record;
  CompletionStream stream(record, 3);
  for (const char c : GetParam().body) {
    stream.Feed(GetParam().status, {&c, 1}, absl::ZeroDuration());
  }
  stream.End(GetParam().status);
  EXPECT_TRUE(stream.is_over());
  EXPECT_STREQ(Name(record.end), Name(GetParam().end));
  EXPECT_THAT(record.message, HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Table,
    BadStreamTest,
    testing::Values(BadStream{500, "", RequestEnd::kHttpStatus, "500"},
                    BadStream{429, R"({"error":{"message":"queue is full"}})",
                              RequestEnd::kHttpStatus, "429: queue is full"},
                    BadStream{404, "<html>\x1b[31m", RequestEnd::kHttpStatus, "404: <html> [31m"},
                    BadStream{200, "", RequestEnd::kMalformed, "no events"},
                    BadStream{200, "<html>hello</html>\n", RequestEnd::kMalformed,
                              "not a stream of events"},
                    BadStream{200, kToken, RequestEnd::kDisconnected, "without [DONE]"},
                    BadStream{200, "data: {\"choices\n\n", RequestEnd::kMalformed, "in the stream"},
                    BadStream{200, "data: {\"error\":{\"message\":\"lost\"}}\n\n",
                              RequestEnd::kServerError, "lost"},
                    BadStream{200, std::string(kToken) + kToken + kToken + kToken,
                              RequestEnd::kMalformed, "more chunks"}));

// Head, chunk framing and close, in pieces of every size.
TEST(ResponseReaderTest, BodiesAreTheSameHoweverTheBytesAreCut) {
  const std::vector<std::string> responses = {
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n "
      "world\r\n0\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
      "HTTP/1.0 200 OK\r\n\r\nhello world"};
  for (const std::string& response : responses) {
    for (size_t bytes = 1; bytes <= response.size(); ++bytes) {
      ResponseReader reader;
      std::string body;
      for (size_t at = 0; at < response.size(); at += bytes) {
        const auto status = reader.Feed(std::string_view(response).substr(at, bytes),
                                        [&](std::string_view piece) { body.append(piece); });
        ASSERT_TRUE(status.ok()) << status << " in pieces of " << bytes;
      }
      EXPECT_TRUE(reader.End().ok());
      EXPECT_EQ(reader.status(), 200);
      EXPECT_EQ(body, "hello world") << response << " in pieces of " << bytes;
    }
  }
}

TEST(ResponseReaderTest, AnEndTooEarlyAndOtherProtocolsAreErrors) {
  const auto ignore = [](std::string_view) {};
  for (const std::string_view partial :
       {"", "HTTP/1.1 200 OK\r\nContent-", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"}) {
    ResponseReader reader;
    EXPECT_TRUE(reader.Feed(partial, ignore).ok()) << partial;
    EXPECT_FALSE(reader.End().ok()) << partial;
  }
  EXPECT_FALSE(ResponseReader().Feed("SSH-2.0-OpenSSH_9.2\r\n\r\n", ignore).ok());
  EXPECT_FALSE(
      ResponseReader().Feed("HTTP/1.1 200 OK\r\nX: " + std::string(200 << 10, 'x'), ignore).ok());
}

}  // namespace
}  // namespace sluice::server
