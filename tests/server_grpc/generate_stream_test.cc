// The stream between engine and client, without gRPC: order, merging, pause, stall, cancel, errors.
#include "server/grpc/generate_stream.h"

#include <condition_variable>
#include <mutex>
#include <vector>

#include "engine/request_error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_engine.h"

namespace sluice::server {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

// Remembers what was written; writes complete only when the test says so.
class RecordingWriter final : public StreamWriter {
 public:
  void Write(const v1::GenerateResponse& response) override {
    const std::lock_guard lock(mutex_);
    responses_.push_back(response);
    ++outstanding_;
    most_outstanding_ = std::max(most_outstanding_, outstanding_);
    changed_.notify_all();
  }
  void Finish(const absl::Status& status, const v1::Usage* usage) override {
    const std::lock_guard lock(mutex_);
    ++finishes_;
    status_ = status;
    if (usage != nullptr) usage_ = *usage;
    changed_.notify_all();
  }
  void Abort() override {
    const std::lock_guard lock(mutex_);
    aborted_ = true;
    changed_.notify_all();
  }

  bool WaitForWrites(size_t count) {
    return Wait([&] { return responses_.size() >= count; });
  }
  bool WaitForFinish() {
    return Wait([&] { return finishes_ > 0; });
  }
  bool WaitForAbort() {
    return Wait([&] { return aborted_; });
  }
  void Complete(GenerateStream& stream, bool ok = true) {
    {
      const std::lock_guard lock(mutex_);
      --outstanding_;
    }
    stream.OnWritten(ok);
  }
  // Completes every write until the stream finishes.
  void RunToEnd(GenerateStream& stream) {
    for (size_t done = 0; WaitForWriteOrFinish(done + 1); ++done) Complete(stream);
  }

  std::vector<v1::GenerateResponse> responses() {
    const std::lock_guard lock(mutex_);
    return responses_;
  }
  std::string text(int choice = 0) {
    std::string text;
    for (const v1::GenerateResponse& response : responses()) {
      if (response.index() == choice) text += response.text();
    }
    return text;
  }
  absl::Status status() {
    const std::lock_guard lock(mutex_);
    return status_;
  }
  const v1::Usage& usage() const { return usage_; }
  int finishes() const { return finishes_; }
  int most_outstanding() const { return most_outstanding_; }

 private:
  template <class Predicate>
  bool Wait(Predicate predicate) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, absl::ToChronoMilliseconds(kPatience), predicate);
  }
  bool WaitForWriteOrFinish(size_t count) {
    Wait([&] { return responses_.size() >= count || finishes_ > 0; });
    return responses().size() >= count;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<v1::GenerateResponse> responses_;
  absl::Status status_;
  v1::Usage usage_;
  int outstanding_ = 0;
  int most_outstanding_ = 0;
  int finishes_ = 0;
  bool aborted_ = false;
};

TokenEvent TextEvent(std::string text) {
  TokenEvent event;
  event.tokens = {1};
  event.text = std::move(text);
  return event;
}

TokenEvent LastEvent() {
  TokenEvent event;
  event.finish = FinishReason::kStop;
  event.usage.completion_tokens = 5;
  return event;
}

class GenerateStreamTest : public testing::Test {
 protected:
  std::shared_ptr<GenerateStream> Open(FakeEngineOptions engine_options,
                                       int choices = 1,
                                       StreamOptions options = {}) {
    engine_ = std::make_unique<FakeEngine>(std::move(engine_options));
    GenerateCall call;
    call.request.prompt = {1, 2, 3};
    call.request.stop.max_tokens = 1'000'000;
    call.choices = choices;
    GenerateStream::Parts parts{.engine = *engine_,
                                .dispatcher = dispatcher_,
                                .authenticator = *authenticator_,
                                .principal = Principal(),
                                .call = std::move(call),
                                .request_id = std::string("request"),
                                .options = options};
    return std::make_shared<GenerateStream>(std::move(parts));
  }

  SteadyClock clock_;
  std::unique_ptr<Authenticator> authenticator_ = *Authenticator::Create("", &clock_);
  RecordingWriter writer_;
  Dispatcher dispatcher_;
  std::unique_ptr<FakeEngine> engine_;
};

TEST_F(GenerateStreamTest, WritesTextInOrderWithOneWriteInFlight) {
  const auto stream = Open({.reply = {"a", "b", "c", "d", "e"}});
  ASSERT_TRUE(stream->Submit().ok());
  stream->Attach(&writer_);
  writer_.RunToEnd(*stream);
  EXPECT_TRUE(writer_.WaitForFinish());
  EXPECT_EQ(writer_.text(), "abcde");
  EXPECT_TRUE(writer_.status().ok()) << writer_.status();
  EXPECT_EQ(writer_.most_outstanding(), 1);
  EXPECT_EQ(writer_.usage().completion_tokens(), 5);
  const v1::GenerateResponse last = writer_.responses().back();
  EXPECT_EQ(last.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(last.usage().prompt_tokens(), 3);
}

TEST_F(GenerateStreamTest, MergesEventsThatWaitForASlowReader) {
  const auto stream = Open({.manual = true});
  ASSERT_TRUE(stream->Submit().ok());
  stream->Attach(&writer_);
  engine_->Emit(0, TextEvent("a"));
  ASSERT_TRUE(writer_.WaitForWrites(1));
  engine_->Emit(0, TextEvent("b"));
  engine_->Emit(0, TextEvent("c"));
  engine_->Emit(0, LastEvent());
  writer_.Complete(*stream);
  ASSERT_TRUE(writer_.WaitForWrites(2));
  writer_.Complete(*stream);
  EXPECT_TRUE(writer_.WaitForFinish());
  EXPECT_THAT(writer_.responses(), testing::SizeIs(2));
  EXPECT_EQ(writer_.responses()[1].text(), "bc");
}

TEST_F(GenerateStreamTest, ChoicesHaveTheirOwnSeedsAndOneFinish) {
  const auto stream = Open({.reply = {"x", "y"}}, 3);
  ASSERT_TRUE(stream->Submit().ok());
  stream->Attach(&writer_);
  writer_.RunToEnd(*stream);
  EXPECT_TRUE(writer_.WaitForFinish());
  for (int choice = 0; choice < 3; ++choice) EXPECT_EQ(writer_.text(choice), "xy") << choice;
  EXPECT_EQ(writer_.finishes(), 1);
  EXPECT_EQ(writer_.usage().completion_tokens(), 6);
  EXPECT_EQ(writer_.usage().prompt_tokens(), 3);
  std::vector<uint64_t> seeds;
  for (const Request& request : engine_->submitted()) seeds.push_back(request.sampling.seed);
  EXPECT_THAT(seeds, testing::ElementsAre(0, 1, 2));
}

TEST_F(GenerateStreamTest, AFullBufferPausesTheRequestAndReadingResumesIt) {
  const auto stream =
      Open({.manual = true}, 1, {.buffer_bytes = 10'000, .slow_reader = absl::Hours(1)});
  ASSERT_TRUE(stream->Submit().ok());
  stream->Attach(&writer_);
  engine_->Emit(0, TextEvent("first"));
  ASSERT_TRUE(writer_.WaitForWrites(1));
  for (int i = 0; i < 60; ++i) engine_->Emit(0, TextEvent(std::string(200, 'x')));
  ASSERT_TRUE(engine_->WaitForPause(true));
  writer_.Complete(*stream);
  EXPECT_TRUE(engine_->WaitForPause(false));
  ASSERT_TRUE(writer_.WaitForWrites(2));
  EXPECT_EQ(writer_.responses()[1].text().size(), 60u * 200);
  engine_->Emit(0, LastEvent());
  writer_.Complete(*stream);
  ASSERT_TRUE(writer_.WaitForWrites(3));
  writer_.Complete(*stream);
  EXPECT_TRUE(writer_.WaitForFinish());
  EXPECT_TRUE(writer_.status().ok()) << writer_.status();
  EXPECT_EQ(engine_->pauses().size(), 2u);
}

TEST_F(GenerateStreamTest, AReaderThatStallsIsCancelled) {
  const auto stream =
      Open({.reply = {"x"}, .endless = true}, 1, {.slow_reader = absl::Milliseconds(30)});
  ASSERT_TRUE(stream->Submit().ok());
  stream->Attach(&writer_);
  ASSERT_TRUE(writer_.WaitForAbort());  // the first write never completes
  writer_.Complete(*stream, false);
  ASSERT_TRUE(writer_.WaitForFinish());
  EXPECT_TRUE(absl::IsCancelled(writer_.status()));
  EXPECT_EQ(ErrorCodeOf(writer_.status()), "slow_consumer");
  EXPECT_THAT(engine_->cancel_reasons(), testing::ElementsAre("slow_consumer"));
  EXPECT_TRUE(engine_->WaitForIdle());
}

TEST_F(GenerateStreamTest, AClientThatLeavesCancelsEveryChoice) {
  const auto stream = Open({.reply = {"x"}, .endless = true}, 2);
  ASSERT_TRUE(stream->Submit().ok());
  stream->Attach(&writer_);
  ASSERT_TRUE(writer_.WaitForWrites(1));
  stream->OnClientGone(false);
  writer_.Complete(*stream, false);
  ASSERT_TRUE(writer_.WaitForFinish());
  EXPECT_TRUE(absl::IsCancelled(writer_.status()));
  EXPECT_TRUE(engine_->WaitForCancels(2));
  EXPECT_TRUE(engine_->WaitForIdle());
}

TEST_F(GenerateStreamTest, APassedDeadlineIsSaidSo) {
  const auto stream = Open({.manual = true});
  ASSERT_TRUE(stream->Submit().ok());
  stream->Attach(&writer_);
  stream->OnClientGone(true);
  ASSERT_TRUE(writer_.WaitForFinish());
  EXPECT_TRUE(absl::IsDeadlineExceeded(writer_.status()));
  EXPECT_THAT(engine_->cancel_reasons(), testing::ElementsAre("deadline"));
}

TEST_F(GenerateStreamTest, AnErrorEndsTheCallAfterTheTextBeforeIt) {
  const auto stream = Open({.manual = true});
  ASSERT_TRUE(stream->Submit().ok());
  engine_->Emit(0, TextEvent("before"));
  TokenEvent event;
  event.finish = FinishReason::kError;
  event.error = RequestError(absl::StatusCode::kUnavailable, "device_lost", "", "device lost");
  engine_->Emit(0, event);
  stream->Attach(&writer_);
  writer_.RunToEnd(*stream);
  ASSERT_TRUE(writer_.WaitForFinish());
  EXPECT_EQ(writer_.text(), "before");
  EXPECT_EQ(ErrorCodeOf(writer_.status()), "device_lost");
}

TEST_F(GenerateStreamTest, ARefusedChoiceCancelsThoseBeforeIt) {
  const auto stream = Open({.manual = true}, 3);
  engine_->FailNextSubmit(
      RequestError(absl::StatusCode::kResourceExhausted, "queue_full", "", "full"));
  const absl::Status status = stream->Submit();
  EXPECT_EQ(ErrorCodeOf(status), "queue_full");
  EXPECT_THAT(engine_->submitted(), testing::IsEmpty());
}

}  // namespace
}  // namespace sluice::server
