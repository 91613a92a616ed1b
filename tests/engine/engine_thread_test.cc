// The mailbox and its thread: many clients at once, a full queue, draining, and an end with work in
// flight. Run under ThreadSanitizer too.
#include "engine/engine_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "absl/synchronization/notification.h"
#include "engine/request_error.h"
#include "tests/support/fake_engine.h"
#include "tests/support/memory_weight_store.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {
namespace {

class WaitingSink final : public TokenSink {
 public:
  void OnEvent(TokenEvent event) override {
    ASSERT_FALSE(done.HasBeenNotified()) << "an event after the last one";
    tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
    if (event.finish == FinishReason::kNone) return;
    finish = event.finish;
    error = event.error;
    done.Notify();
  }
  std::vector<int32_t> tokens;
  FinishReason finish = FinishReason::kNone;
  absl::Status error;
  absl::Notification done;
};

LoadedModel MakeModel(const EngineConfig& config) {
  const ModelSpec spec = PlainSpec(2);
  MemoryWeightStore weights;
  FillWeights(spec, 5, weights);
  LoadedModel model;
  auto runner = RealModelRunner::Create(config, spec, weights, nullptr);
  SLUICE_CHECK(runner.ok()) << runner.status();
  model.runner = *std::move(runner);
  model.tokenizer = MakeFakeTokenizer();
  model.chat_template = MakeFakeChatTemplate();
  model.card.id = "test";
  model.card.vocab_size = 61;
  model.card.max_context_tokens = 64;
  model.card.max_batch_tokens = config.max_batch_tokens;
  model.card.num_layer_instances = 2;
  return model;
}

Request MakeRequest(uint32_t seed, int32_t max_tokens = 12) {
  Request request;
  std::mt19937 random(seed);
  for (uint32_t i = 0; i < 1 + seed % 9; ++i)
    request.prompt.push_back(static_cast<int32_t>(random() % 61));
  request.stop = {.max_tokens = max_tokens, .ignore_eos = true};
  request.sampling.temperature = 0.0f;
  return request;
}

TEST(EngineThreadTest, ManyClientsGetTheirOwnAnswers) {
  const EngineConfig config{.threads = 1, .max_batch_tokens = 32};
  SteadyClock clock;
  EngineThread engine(config, MakeModel(config), clock);
  std::vector<std::vector<int32_t>> alone;
  for (uint32_t seed = 0; seed < 16; ++seed) {
    auto sink = std::make_shared<WaitingSink>();
    ASSERT_TRUE(engine.Submit(MakeRequest(seed), sink).ok());
    sink->done.WaitForNotification();
    alone.push_back(sink->tokens);
  }
  std::atomic<int> wrong{0}, finished{0}, cancelled{0};
  std::vector<std::thread> clients;
  for (uint32_t client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      std::mt19937 random(client);
      for (int i = 0; i < 30; ++i) {
        const uint32_t seed = static_cast<uint32_t>(random() % 16);
        auto sink = std::make_shared<WaitingSink>();
        const auto id = engine.Submit(MakeRequest(seed), sink);
        if (!id.ok()) continue;
        if (random() % 4 == 0) engine.Cancel(*id, "disconnect");
        if (random() % 8 == 0) {
          engine.SetPaused(*id, true);
          engine.SetPaused(*id, false);
        }
        engine.Snapshot();
        sink->done.WaitForNotification();
        if (sink->finish == FinishReason::kCancelled) {
          ++cancelled;
        } else {
          ++finished;
          if (sink->tokens != alone[seed]) ++wrong;
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_GT(finished.load(), 0);
  EXPECT_GT(cancelled.load(), 0);
  EXPECT_TRUE(engine.healthy());
}

TEST(EngineThreadTest, AFullQueueAnswersAtOnce) {
  const EngineConfig config{
      .threads = 1, .max_batch_tokens = 8, .max_sequences = 1, .max_queued_requests = 3};
  SteadyClock clock;
  EngineThread engine(config, MakeModel(config), clock);
  int refused = 0;
  std::vector<std::shared_ptr<WaitingSink>> sinks;
  for (uint32_t i = 0; i < 50; ++i) {
    auto sink = std::make_shared<WaitingSink>();
    const auto id = engine.Submit(MakeRequest(i, 50), sink);
    if (id.ok()) {
      sinks.push_back(sink);
    } else {
      ++refused;
      EXPECT_EQ(ErrorCodeOf(id.status()), "queue_full");
      EXPECT_EQ(id.status().code(), absl::StatusCode::kResourceExhausted);
    }
  }
  EXPECT_GT(refused, 0);
  for (const auto& sink : sinks) sink->done.WaitForNotification();
  for (const auto& sink : sinks) EXPECT_EQ(sink->finish, FinishReason::kLength) << sink->error;
}

TEST(EngineThreadTest, DrainingRefusesNewcomersAndFinishesTheRest) {
  const EngineConfig config{.threads = 1};
  SteadyClock clock;
  EngineThread engine(config, MakeModel(config), clock);
  auto sink = std::make_shared<WaitingSink>();
  ASSERT_TRUE(engine.Submit(MakeRequest(1, 40), sink).ok());
  engine.StartDraining();
  const auto refused = engine.Submit(MakeRequest(2), std::make_shared<WaitingSink>());
  EXPECT_EQ(ErrorCodeOf(refused.status()), "shutting_down");
  sink->done.WaitForNotification();
  EXPECT_EQ(sink->finish, FinishReason::kLength);
}

TEST(EngineThreadTest, DestructionEndsEveryRequestOnce) {
  const EngineConfig config{.threads = 1, .max_sequences = 2};
  SteadyClock clock;
  std::vector<std::shared_ptr<WaitingSink>> sinks;
  {
    EngineThread engine(config, MakeModel(config), clock);
    for (uint32_t i = 0; i < 20; ++i) {
      sinks.push_back(std::make_shared<WaitingSink>());
      ASSERT_TRUE(engine.Submit(MakeRequest(i, 50), sinks.back()).ok());
    }
  }
  for (const auto& sink : sinks) EXPECT_TRUE(sink->done.HasBeenNotified());
}

// The model is dense: what a cohort may change is only when its rows run.
TEST(EngineThreadTest, ACohortIsTakenOrRefusedAsOne) {
  const EngineConfig config{.threads = 1, .max_batch_tokens = 32, .max_queued_requests = 4};
  LoadedModel model = MakeModel(config);
  model.card.routing_modes = {"isolated", "cohort"};
  model.card.cohort_size = 3;
  SteadyClock clock;
  EngineThread engine(config, std::move(model), clock);
  std::vector<std::shared_ptr<WaitingSink>> sinks;
  const auto members = [&sinks](uint32_t count, int32_t max_tokens) {
    std::vector<CohortMember> cohort;
    sinks.clear();
    for (uint32_t seed = 0; seed < count; ++seed) {
      sinks.push_back(std::make_shared<WaitingSink>());
      cohort.push_back({MakeRequest(seed, max_tokens), sinks.back()});
      cohort.back().request.routing.mode = RoutingParams::Mode::kCohort;
    }
    return cohort;
  };
  std::vector<std::vector<int32_t>> alone;
  for (uint32_t seed = 0; seed < 3; ++seed) {
    auto sink = std::make_shared<WaitingSink>();
    ASSERT_TRUE(engine.Submit(MakeRequest(seed), sink).ok());
    sink->done.WaitForNotification();
    alone.push_back(sink->tokens);
  }
  const auto ids = engine.SubmitCohort(members(3, 12));
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(ids->size(), 3u);
  for (size_t i = 0; i < sinks.size(); ++i) {
    sinks[i]->done.WaitForNotification();
    EXPECT_EQ(sinks[i]->tokens, alone[i]) << i;
  }
  EXPECT_FALSE(engine.SubmitCohort(members(4, 12)).ok());
  EXPECT_FALSE(engine.Submit(members(1, 12)[0].request, sinks[0]).ok());
  const auto cancelled = engine.SubmitCohort(members(2, 50));
  ASSERT_TRUE(cancelled.ok());
  engine.Cancel(cancelled->at(1), "disconnect");
  for (const auto& sink : sinks) sink->done.WaitForNotification();
}

// It is refused while the client can still be told so, not by an event of an accepted request.
TEST(EngineThreadTest, ACohortThatFitsOnlyMemberByMemberIsRefused) {
  EngineConfig config{.threads = 1, .max_batch_tokens = 32};
  config.kv_memory_bytes = int64_t{1} << 24;
  LoadedModel model = MakeModel(config);
  const std::vector<int32_t> three = {41, 42, 43};  // prompts of 1 to 3 tokens, and 40 more
  while (model.runner->pages().CanEverFit(three)) {
    config.kv_memory_bytes /= 2;
    model = MakeModel(config);
  }
  ASSERT_TRUE(model.runner->pages().CanEverFit(43));
  model.card.routing_modes = {"isolated", "cohort"};
  model.card.cohort_size = 3;
  SteadyClock clock;
  EngineThread engine(config, std::move(model), clock);
  const auto submit = [&engine](uint32_t count) {
    std::vector<CohortMember> cohort;
    for (uint32_t seed = 0; seed < count; ++seed) {
      cohort.push_back({MakeRequest(seed, 40), std::make_shared<WaitingSink>()});
      cohort.back().request.routing.mode = RoutingParams::Mode::kCohort;
    }
    return engine.SubmitCohort(std::move(cohort)).status();
  };
  EXPECT_EQ(ErrorCodeOf(submit(3)), "kv_capacity");
  EXPECT_EQ(engine.num_active(), 0);
  EXPECT_TRUE(submit(1).ok());
}

}  // namespace
}  // namespace sluice::testing
