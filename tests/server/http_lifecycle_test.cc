// Loading, draining, failing, stopping; /v1/routing over time.
#include "gmock/gmock.h"
#include "tests/server/http_fixture.h"

namespace sluice::server {
namespace {

constexpr const char* kBody = R"({"prompt": "a"})";

class LifecycleTest : public HttpFixture {};

TEST_F(LifecycleTest, WhileLoadingOnlyHealthAnswers) {
  StartServerWithoutEngine();
  EXPECT_EQ(Get(port(), "/health/live").status, 200);
  EXPECT_EQ(Get(port(), "/health/ready").status, 503);
  EXPECT_EQ(Get(port(), "/health").ErrorCode(), "model_loading");
  const ClientResponse response = Complete(kBody);
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(response.ErrorCode(), "model_loading");
  EXPECT_EQ(response.Json()["error"]["type"], "service_unavailable_error");
  EXPECT_TRUE(response.fields.count("retry-after") > 0);
  engine_ = std::make_unique<FakeEngine>();
  server_->SetEngine(engine_.get());
  EXPECT_EQ(Get(port(), "/health/ready").status, 200);
  EXPECT_EQ(Complete(kBody).status, 200);
}

TEST_F(LifecycleTest, DrainingRefusesNewWorkAndFinishesStreams) {
  engine_options_.manual = true;
  StartServer();
  HttpClient streaming(port());
  streaming.Send(PostText(kCompletionsPath, R"({"prompt": "a", "stream": true})"));
  ASSERT_TRUE(engine_->WaitForSubmits(1));
  engine_->StartDraining();
  EXPECT_EQ(Get(port(), "/health/ready").status, 503);
  EXPECT_EQ(Get(port(), "/health/live").status, 200);
  HttpClient late(port());
  late.Send(PostText(kCompletionsPath, kBody));
  const ClientResponse refused = late.ReadResponse();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.ErrorCode(), "shutting_down");
  EXPECT_EQ(refused.fields.at("connection"), "close");
  EXPECT_TRUE(refused.fields.count("retry-after") > 0);
  EXPECT_TRUE(late.AtEnd());
  EXPECT_EQ(server_->num_active_requests(), 1);
  TokenEvent last;
  last.text = "end";
  last.finish = FinishReason::kStop;
  engine_->Emit(0, last);
  const ClientResponse response = streaming.ReadResponse();
  ASSERT_EQ(response.Events().size(), 1u);
  EXPECT_EQ(response.Events()[0]["choices"][0]["text"], "end");
}

TEST_F(LifecycleTest, ServerDrainNeedsNoEngine) {
  StartServerWithoutEngine();
  server_->StartDraining();
  EXPECT_EQ(Complete(kBody).ErrorCode(), "shutting_down");
}

TEST_F(LifecycleTest, AFailedEngineIsNotReady) {
  StartServer();
  engine_->set_healthy(false);
  EXPECT_EQ(Get(port(), "/health/ready").ErrorCode(), "device_lost");
  EXPECT_EQ(Complete(kBody).status, 503);
}

TEST_F(LifecycleTest, StoppingEndsStreamsAndCancelsThem) {
  engine_options_.manual = true;
  StartServer();
  HttpClient client(port());
  client.Send(PostText(kCompletionsPath, R"({"prompt": "a", "stream": true})"));
  HttpClient waiting(port());
  waiting.Send(PostText(kCompletionsPath, kBody));
  ASSERT_TRUE(engine_->WaitForSubmits(2));
  server_->Stop();
  EXPECT_TRUE(client.AtEnd());
  EXPECT_TRUE(waiting.AtEnd());
  EXPECT_EQ(engine_->num_active(), 0);
}

TEST_F(LifecycleTest, TheEngineMayBeLateAfterItsClientLeft) {
  engine_options_.endless = true;
  StartServer();
  for (int i = 0; i < 20; ++i) {
    HttpClient client(port());
    client.Send(PostText(kCompletionsPath, R"({"prompt": "a", "max_tokens": 400})"));
    ASSERT_TRUE(engine_->WaitForSubmits(static_cast<size_t>(i) + 1));
  }
  server_.reset();  // before the engine
  EXPECT_TRUE(engine_->WaitForIdle());
}

TEST_F(LifecycleTest, AccessRecordsNameRoutesNotPaths) {
  StartServer();
  Get(port(), "/secret/path");
  Complete(kBody);
  const std::vector<AccessRecord> records = WaitForRecords(2);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].route, "_unknown");
  EXPECT_EQ(records[0].status, 404);
  EXPECT_EQ(records[1].route, kCompletionsPath);
  EXPECT_EQ(records[1].api, Api::kCompletions);
  EXPECT_EQ(records[1].completion_tokens, 4);
  EXPECT_EQ(records[1].prompt_tokens, 2);
}

TEST_F(LifecycleTest, RoutingIsShownInFullWindowsOnly) {
  StartServer();
  MetricsSnapshot snapshot;
  snapshot.depth_layers.push_back({.layer = "1", .capacity = 0.5, .executed = 300, .skipped = 699});
  engine_->set_snapshot(snapshot);
  EXPECT_TRUE(Get(port(), "/v1/routing").Json()["depth_layers"].empty());
  snapshot.depth_layers[0].skipped = 700;
  engine_->set_snapshot(snapshot);
  const nlohmann::json routing = Get(port(), "/v1/routing").Json();
  EXPECT_EQ(routing["depth_layers"][0]["skipped_ratio"], 0.7);
  EXPECT_EQ(routing["model"], "fake-model");
}

}  // namespace
}  // namespace sluice::server
