// Server-sent events: order, the usage chunk, errors, pings, slow readers, clients that leave.
#include "gmock/gmock.h"
#include "tests/server/http_fixture.h"

namespace sluice::server {
namespace {

using nlohmann::json;
using testing::Each;
using testing::ElementsAre;
using testing::SizeIs;

TokenEvent Text(std::string text) {
  TokenEvent event;
  event.text = std::move(text);
  event.tokens = {'a'};
  return event;
}

class StreamingTest : public HttpFixture {};

TEST_F(StreamingTest, ChunksComeInOrderAndEndWithDone) {
  StartServer();
  const ClientResponse response = Complete(R"({"prompt": "a", "stream": true, "echo": true})");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.fields.at("content-type"), "text/event-stream; charset=utf-8");
  std::vector<std::string> texts;
  const std::vector<json> events = response.Events();
  for (const json& event : events) {
    texts.push_back(event["choices"][0]["text"].get<std::string>());
    EXPECT_FALSE(event.contains("usage"));
    EXPECT_EQ(event["object"], "text_completion");
  }
  EXPECT_THAT(texts, ElementsAre("aHel", "lo", " wor", "ld"));
  EXPECT_TRUE(events[0]["choices"][0]["finish_reason"].is_null());
  EXPECT_EQ(events[3]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(response.body.substr(response.body.size() - 14), "data: [DONE]\n\n");
}

TEST_F(StreamingTest, ChatStartsWithTheRole) {
  StartServer();
  const ClientResponse response =
      Chat(R"({"messages": [{"role": "user", "content": "a"}], "stream": true, "max_tokens": 2})");
  const std::vector<json> events = response.Events();
  ASSERT_THAT(events, SizeIs(3));
  EXPECT_EQ(events[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(events[1]["choices"][0]["delta"]["content"], "Hel");
  EXPECT_EQ(events[2]["choices"][0]["finish_reason"], "length");
}

TEST_F(StreamingTest, UsageComesInAChunkWithoutChoices) {
  StartServer();
  const std::vector<json> events =
      Complete(R"({"prompt": "a", "stream": true, "stream_options": {"include_usage": true},
                   "routing": {"capacity": 0}})")
          .Events();
  ASSERT_THAT(events, SizeIs(5));
  EXPECT_TRUE(events[0]["usage"].is_null());
  EXPECT_EQ(events[4]["choices"], json::array());
  EXPECT_EQ(events[4]["usage"]["prompt_tokens"], 2);
  EXPECT_EQ(events[4]["usage"]["completion_tokens"], 4);
  EXPECT_EQ(events[4]["usage"]["compute"]["skipped_ratio"], 0.5);
  EXPECT_EQ(events[4]["routing"]["capacity"], 0.0);
}

TEST_F(StreamingTest, ChoicesKeepTheirIndex) {
  StartServer();
  std::map<int, std::string> texts;
  for (const json& event :
       Complete(R"({"prompt": ["a", "b"], "n": 2, "stream": true, "echo": true})").Events()) {
    const json& choice = event["choices"][0];
    texts[choice["index"].get<int>()] += choice["text"].get<std::string>();
  }
  EXPECT_EQ(
      texts,
      (std::map<int, std::string>{
          {0, "aHello world"}, {1, "aHello world"}, {2, "bHello world"}, {3, "bHello world"}}));
}

TEST_F(StreamingTest, TheConnectionServesMoreRequests) {
  StartServer();
  HttpClient client(port());
  for (int i = 0; i < 3; ++i) {
    client.Send(PostText(kCompletionsPath, R"({"prompt": "a", "stream": true})"));
    EXPECT_THAT(client.ReadResponse().Events(), SizeIs(4));
  }
}

TEST_F(StreamingTest, Http10GetsABodyThatEndsWithTheConnection) {
  StartServer();
  HttpClient client(port());
  const std::string body = R"({"prompt": "a", "stream": true})";
  client.Send(
      "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body);
  const ClientResponse response = client.ReadResponse();
  EXPECT_EQ(response.fields.count("transfer-encoding"), 0u);
  EXPECT_THAT(response.Events(), SizeIs(4));
}

TEST_F(StreamingTest, AnErrorAfterTheHeadIsTheLastEvent) {
  engine_options_.manual = true;
  StartServer();
  HttpClient client(port());
  client.Send(PostText(kCompletionsPath, R"({"prompt": "a", "stream": true})"));
  ASSERT_TRUE(engine_->WaitForSubmits(1));
  engine_->Emit(0, Text("x"));
  TokenEvent failed;
  failed.finish = FinishReason::kError;
  failed.error = absl::UnavailableError("device");
  engine_->Emit(0, failed);
  const ClientResponse response = client.ReadResponse();
  EXPECT_EQ(response.status, 200);
  const std::vector<json> events = response.Events();
  ASSERT_THAT(events, SizeIs(2));
  EXPECT_EQ(events[1]["error"].size(), 4u);
  EXPECT_EQ(events[1]["error"]["type"], "service_unavailable_error");
  EXPECT_EQ(response.body.substr(response.body.size() - 14), "data: [DONE]\n\n");
}

TEST_F(StreamingTest, SilenceIsFilledWithComments) {
  engine_options_.manual = true;
  options_.timeouts.ping = absl::Milliseconds(100);
  StartServer();
  HttpClient client(port());
  client.Send(PostText(kCompletionsPath, R"({"prompt": "a", "stream": true})"));
  EXPECT_TRUE(client.ReadUntil(": ping\n\n"));
  EXPECT_TRUE(client.ReadUntil(": ping\n\n"));
}

TEST_F(StreamingTest, LeavingCancelsEveryChoice) {
  engine_options_.endless = true;
  StartServer();
  HttpClient client(port());
  client.Send(
      PostText(kCompletionsPath, R"({"prompt": ["a", "b"], "stream": true, "max_tokens": 400})"));
  ASSERT_TRUE(client.ReadUntil("data: "));
  client.Close();
  WaitForRecords(1);
  EXPECT_TRUE(engine_->WaitForIdle());
}

class LeavingTest : public HttpFixture, public testing::WithParamInterface<bool> {
 protected:
  std::string Body() const {
    return std::string(R"({"prompt": ["a", "b"], "stream": )") + (GetParam() ? "true}" : "false}");
  }
};

TEST_P(LeavingTest, ACloseCancels) {
  engine_options_.manual = true;
  StartServer();
  HttpClient client(port());
  client.Send(PostText(kCompletionsPath, Body()));
  ASSERT_TRUE(engine_->WaitForSubmits(2));
  client.Close();
  ASSERT_TRUE(engine_->WaitForCancels(2));
  EXPECT_THAT(engine_->cancel_reasons(), Each(std::string("disconnect")));
  const std::vector<AccessRecord> records = WaitForRecords(1);
  ASSERT_THAT(records, SizeIs(1));
  EXPECT_EQ(records[0].status, 499);
  EXPECT_EQ(records[0].code, absl::StatusCode::kCancelled);
}

TEST_P(LeavingTest, AResetCancels) {
  engine_options_.manual = true;
  StartServer();
  HttpClient client(port());
  client.Send(PostText(kCompletionsPath, Body()));
  ASSERT_TRUE(engine_->WaitForSubmits(2));
  client.Reset();
  EXPECT_TRUE(engine_->WaitForCancels(2));
}

TEST_P(LeavingTest, AHalfCloseCancels) {
  engine_options_.manual = true;
  StartServer();
  HttpClient client(port());
  client.Send(PostText(kCompletionsPath, Body()));
  ASSERT_TRUE(engine_->WaitForSubmits(2));
  client.ShutdownSend();
  EXPECT_TRUE(engine_->WaitForCancels(2));
}

INSTANTIATE_TEST_SUITE_P(StreamedOrNot, LeavingTest, testing::Bool());

class SlowReaderTest : public HttpFixture {
 protected:
  void SetUp() override {
    engine_options_.manual = true;
    options_.limits.socket_send_buffer_bytes = 16 << 10;
  }
  // Twice what the stream buffers, to a client that reads nothing.
  void Flood(HttpClient& client) {
    client.Send(PostText(kCompletionsPath, R"({"prompt": "a", "stream": true})"));
    ASSERT_TRUE(engine_->WaitForSubmits(1));
    for (int i = 0; i < kEvents; ++i) engine_->Emit(0, Text(std::string(8192, 'x')));
    ASSERT_TRUE(engine_->WaitForPause(true));
  }

  static constexpr int kEvents = 64;
};

TEST_F(SlowReaderTest, IsPausedThenResumed) {
  StartServer();
  HttpClient client(port(), 16 << 10);
  Flood(client);
  EXPECT_FALSE(engine_->WaitForPause(false, absl::ZeroDuration()));
  for (int i = 0; i < kEvents; ++i) ASSERT_TRUE(client.ReadUntil("data: "));
  EXPECT_TRUE(engine_->WaitForPause(false));
  EXPECT_TRUE(engine_->cancel_reasons().empty());
}

TEST_F(SlowReaderTest, IsCancelledAfterItsTime) {
  options_.timeouts.slow_reader = absl::Milliseconds(300);
  StartServer();
  HttpClient client(port(), 16 << 10);
  Flood(client);
  ASSERT_TRUE(engine_->WaitForCancels(1));
  EXPECT_THAT(engine_->cancel_reasons(), ElementsAre("slow_consumer"));
  const std::vector<AccessRecord> records = WaitForRecords(1);
  ASSERT_THAT(records, SizeIs(1));
  EXPECT_EQ(records[0].error_code, "slow_consumer");
}

}  // namespace
}  // namespace sluice::server
