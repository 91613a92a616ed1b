// The calls of the gRPC front end over a real socket: streams, errors, limits, unary calls.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server_grpc/grpc_fixture.h"

namespace sluice::server {
namespace {

TEST_F(GrpcServerTest, StreamsTextUsageAndTrailingMetadata) {
  Start();
  std::vector<v1::GenerateResponse> responses;
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "my-id");
  const grpc::Status status = Generate(TextRequest(), &responses, &context);
  ASSERT_TRUE(status.ok()) << status.error_message();
  std::string text;
  for (const v1::GenerateResponse& response : responses) text += response.text();
  EXPECT_EQ(text, "Hello world");
  EXPECT_EQ(responses.back().finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(responses.back().usage().prompt_tokens(), 3);
  EXPECT_EQ(responses.back().usage().completion_tokens(), 4);
  EXPECT_EQ(responses.back().usage().compute().skipped_ratio(), 0.5);
  EXPECT_EQ(responses.front().id(), "my-id");
  EXPECT_EQ(context.GetServerInitialMetadata().find("x-request-id")->second, "my-id");
  const auto& trailing = context.GetServerTrailingMetadata();
  ASSERT_NE(trailing.find("sluice-skipped-ratio"), trailing.end());
  EXPECT_EQ(trailing.find("sluice-skipped-ratio")->second, "0.5");
  EXPECT_EQ(counters_.requests(Api::kGrpcGenerate, 0), 1u);
}

TEST_F(GrpcServerTest, CancelStopsTheWork) {
  Start({.reply = {"x"}, .endless = true});
  grpc::ClientContext context;
  v1::GenerateRequest request = TextRequest();
  request.set_max_tokens(400);
  request.set_n(2);
  const auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(engine_->WaitForIdle());
}

TEST_F(GrpcServerTest, ADeadlineReachesTheEngineAndEndsTheWork) {
  Start({.manual = true});
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  const auto reader = stub_->Generate(&context, TextRequest());
  v1::GenerateResponse response;
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(engine_->WaitForCancels(1));
  const std::vector<Request> submitted = engine_->submitted();
  ASSERT_EQ(submitted.size(), 1u);
  ASSERT_TRUE(submitted[0].timeout.has_value());
  EXPECT_GT(*submitted[0].timeout, absl::ZeroDuration());
  EXPECT_LE(*submitted[0].timeout, absl::Seconds(1));  // the wire rounds deadlines up
}

TEST_F(GrpcServerTest, BrokenProtobufAndInvalidUtf8AreInvalidArgument) {
  Start();
  for (const char* method :
       {"/sluice.v1.GenerationService/Generate", "/sluice.v1.GenerationService/Tokenize",
        "/sluice.v1.GenerationService/Detokenize", "/sluice.v1.GenerationService/GetModel",
        "/sluice.v1.GenerationService/WatchRouting"}) {
    const grpc::Status lying_length = SendRaw(method, "\x0a\x7fshort");
    EXPECT_EQ(lying_length.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
    EXPECT_EQ(Reason(lying_length), "invalid_protobuf") << method;
  }
  const grpc::Status bad_text =
      SendRaw("/sluice.v1.GenerationService/Generate", "\x12\x02\xff\xfe");
  EXPECT_EQ(bad_text.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Reason(bad_text), "invalid_protobuf");
  EXPECT_THAT(engine_->submitted(), testing::IsEmpty());
}

TEST_F(GrpcServerTest, AnEmptyMessageNamesWhatIsMissing) {
  Start();
  const grpc::Status status = Generate({}, nullptr);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Reason(status), "empty_prompt prompt");
}

TEST_F(GrpcServerTest, AMessageBeyondTheLimitIsResourceExhausted) {
  Start({}, {.limits = {.max_receive_bytes = 10'000}});
  const grpc::Status status =
      SendRaw("/sluice.v1.GenerationService/Tokenize", std::string(20'000, 'x'));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GrpcServerTest, ARunningStreamSurvivesTheDrain) {
  Start({.manual = true});
  grpc::ClientContext context;
  SetDeadline(context);
  const auto reader = stub_->Generate(&context, TextRequest());
  ASSERT_TRUE(engine_->WaitForSubmits(1));
  server_->StartDraining();
  EXPECT_EQ(server_->num_active_streams(), 1);
  TokenEvent event;
  event.text = "still here";
  event.finish = FinishReason::kStop;
  engine_->Emit(0, event);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.text(), "still here");
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GrpcServerTest, AFullQueueIsResourceExhaustedWithRetryInfo) {
  Start();
  absl::Status full(absl::StatusCode::kResourceExhausted, "the queue is full");
  full.SetPayload("sluice/code", absl::Cord("queue_full"));
  engine_->FailNextSubmit(full);
  const grpc::Status status = Generate(TextRequest(), nullptr);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Reason(status), "queue_full");
  EXPECT_TRUE(HasRetryInfo(status));
}

TEST_F(GrpcServerTest, AReaderThatNeverReadsPausesTheRequest) {
  Start({.reply = {std::string(100'000, 'x')}, .endless = true});
  grpc::ClientContext context;
  v1::GenerateRequest request = TextRequest();
  request.set_max_tokens(300);  // 30 MB of text: more than sockets and windows hold
  const auto reader = stub_->Generate(&context, request);
  ASSERT_TRUE(engine_->WaitForPause(true));
  v1::GenerateResponse response;
  size_t bytes = 0;
  while (reader->Read(&response)) bytes += response.text().size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, 300u * 100'000);
  EXPECT_TRUE(engine_->WaitForPause(false));
}

TEST_F(GrpcServerTest, TokenizesDetokenizesAndDescribesTheModel) {
  Start();
  v1::TokenizeRequest tokenize;
  tokenize.set_text("ab");
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Tokenize(&first, tokenize, &tokens).ok());
  EXPECT_THAT(tokens.ids(), testing::ElementsAre(kFakeBos, 'a', 'b'));
  EXPECT_EQ(tokens.tokens(1), "a");
  EXPECT_EQ(tokens.max_model_len(), 512);

  v1::DetokenizeRequest detokenize;
  detokenize.add_ids('a');
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Detokenize(&second, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "a");
  detokenize.add_ids(kFakeVocabulary);
  grpc::ClientContext third;
  EXPECT_EQ(Reason(stub_->Detokenize(&third, detokenize, &text)), "token_out_of_vocab ids");

  v1::Model model;
  grpc::ClientContext fourth;
  ASSERT_TRUE(stub_->GetModel(&fourth, {}, &model).ok());
  EXPECT_EQ(model.id(), "fake-model");
  EXPECT_THAT(model.routing_modes(), testing::ElementsAre("threshold", "predictor"));
  v1::GetModelRequest other;
  other.set_model("other");
  grpc::ClientContext fifth;
  EXPECT_EQ(stub_->GetModel(&fifth, other, &model).error_code(), grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace sluice::server
