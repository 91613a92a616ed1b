// The engine as a whole, on small random models: the same answer alone and in any company, after
// preemption too; nothing leaks; usage equals a brute-force count.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "engine/request_error.h"
#include "tests/engine/test_engine.h"

namespace sluice::testing {
namespace {

std::vector<Request> RandomRequests(int count, Family family) {
  std::mt19937 random(17);
  std::vector<Request> requests;
  for (int r = 0; r < count; ++r) {
    Request request;
    const auto length = 1 + random() % 28;
    for (size_t i = 0; i < length; ++i)
      request.prompt.push_back(static_cast<int32_t>(random() % 96));
    request.stop.max_tokens = 1 + static_cast<int32_t>(random() % 20);
    request.sampling.temperature = r % 2 == 0 ? 0.0f : 0.9f;
    request.sampling.seed = random();
    request.sampling.logprobs = 2;
    if (r % 3 == 0) request.sampling.prompt_logprobs = 1;
    if (family == Family::kMod && r % 5 == 0) request.routing.capacity = 0.3;
    if (family == Family::kMoe && r % 5 == 0) request.routing.experts_per_token = 1;
    requests.push_back(request);
  }
  return requests;
}

std::string Name(Family family) {
  switch (family) {
    case Family::kDense:
      return "dense";
    case Family::kMoe:
      return "moe";
    case Family::kMod:
      return "mod";
    case Family::kTuned:
      return "tuned";
    case Family::kMot:
      return "mot";
    case Family::kEncoder:
      return "encoder";
    case Family::kEncoderDecoder:
      return "encoder_decoder";
  }
  return "";
}

class Crowd : public ::testing::TestWithParam<std::tuple<Family, kernels::WeightFormat>> {};

TEST_P(Crowd, AnswersAreTheSameBitForBit) {
  const auto [family, format] = GetParam();
  const std::vector<Request> requests = RandomRequests(64, family);
  std::vector<Answer> alone;
  for (const Request& request : requests) {
    TestEngine engine({.family = family, .format = format});
    const auto sink = engine.Submit(request);
    ASSERT_TRUE(engine.last_status().ok()) << engine.last_status();
    engine.Drain();
    alone.push_back(sink->answer);
    ASSERT_FALSE(alone.back().tokens.empty());
  }
  int64_t preemptions = 0;
  struct Company {
    size_t size;
    int32_t max_batch_tokens;
    int64_t kv_pages;  // 0: plenty
    int threads;
  };
  for (const Company& company :
       {Company{2, 512, 0, 2}, Company{3, 7, 0, 1}, Company{7, 33, 0, 2}, Company{16, 64, 60, 2},
        Company{33, 512, 100, 1}, Company{64, 512, 0, 2}, Company{64, 48, 80, 2}}) {
    const int64_t page_bytes = 16 * 2 * 24 * (format == kernels::WeightFormat::kF32 ? 4 : 2);
    TestEngine engine({.family = family,
                       .format = format,
                       .max_batch_tokens = company.max_batch_tokens,
                       .kv_memory_bytes = company.kv_pages * page_bytes,
                       .threads = company.threads});
    std::mt19937 random(static_cast<uint32_t>(company.size));
    std::vector<size_t> order(requests.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    std::vector<std::shared_ptr<AnswerSink>> sinks(requests.size());
    for (size_t next = 0; next < order.size() || engine->num_active() > 0;) {
      // Newcomers arrive between steps, up to the company's size.
      while (next < order.size() && engine->num_active() < static_cast<int64_t>(company.size) &&
             (engine->num_active() == 0 || random() % 3 != 0)) {
        sinks[order[next]] = engine.Submit(requests[order[next]]);
        ASSERT_TRUE(engine.last_status().ok()) << engine.last_status();
        ++next;
      }
      engine->Step();
    }
    int different = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(sinks[i]->answer.last_events, 1);
      different += sinks[i]->answer == alone[i] ? 0 : 1;
    }
    EXPECT_EQ(different, 0) << "in a company of " << company.size;
    EXPECT_TRUE(engine->CheckIntegrity().ok()) << engine->CheckIntegrity();
    preemptions += static_cast<int64_t>(engine->metrics().Snapshot().preemptions["pages"]);
  }
  EXPECT_GT(preemptions, 0) << "the small caches must have forced recomputation";
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    Crowd,
    ::testing::Combine(::testing::Values(Family::kDense, Family::kMoe, Family::kMod, Family::kMot),
                       ::testing::Values(kernels::WeightFormat::kF32,
                                         kernels::WeightFormat::kBF16,
                                         kernels::WeightFormat::kInt8)),
    [](const auto& setting) {
      return Name(std::get<0>(setting.param)) + "_" + kernels::Name(std::get<1>(setting.param));
    });

// All requests at once, on so few pages that some are preempted and recomputed.
void ExpectSameInACrowd(Family family,
                        int32_t max_batch_tokens,
                        const std::vector<Request>& requests,
                        const std::vector<Answer>& alone) {
  TestEngine engine({.family = family,
                     .max_batch_tokens = max_batch_tokens,
                     .kv_memory_bytes = 60 * 16 * 2 * 24 * 4});
  std::vector<std::shared_ptr<AnswerSink>> sinks;
  for (const Request& request : requests) sinks.push_back(engine.Submit(request));
  engine.Drain();
  int different = 0;
  for (size_t i = 0; i < requests.size(); ++i) different += sinks[i]->answer == alone[i] ? 0 : 1;
  EXPECT_EQ(different, 0);
  EXPECT_GT(engine->metrics().Snapshot().preemptions["pages"], 0u);
}

// Experts that refuse rows look at one request's prompt only, after preemption too.
TEST(EngineTest, CapacityRefusesTheSameRowsInAnyCompany) {
  std::vector<Request> requests = RandomRequests(32, Family::kMoe);
  std::vector<Answer> alone;
  int64_t dropped = 0;
  for (Request& request : requests) {
    request.routing.mode = RoutingParams::Mode::kCapacity;
    TestEngine engine({.family = Family::kMoe});
    const auto sink = engine.Submit(request);
    ASSERT_TRUE(engine.last_status().ok()) << engine.last_status();
    engine.Drain();
    alone.push_back(sink->answer);
    dropped += sink->answer.usage.compute.dropped_experts;
    uint64_t counted = 0;
    for (const auto& layer : engine->metrics().Snapshot().expert_layers) counted += layer.dropped;
    EXPECT_EQ(counted, static_cast<uint64_t>(sink->answer.usage.compute.dropped_experts));
  }
  EXPECT_GT(dropped, 0);
  ExpectSameInACrowd(Family::kMoe, 48, requests, alone);
}

// A prompt that is decided as a whole runs in one step, and decides as before when recomputed.
TEST(EngineTest, TheMeanOfAPromptDecidesTheSameInAnyCompany) {
  std::vector<Request> requests = RandomRequests(32, Family::kTuned);
  std::vector<Answer> alone;
  int64_t executed = 0, skipped = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (i % 4 == 3) requests[i].routing.mode = RoutingParams::Mode::kThreshold;
    TestEngine engine({.family = Family::kTuned});
    const auto sink = engine.Submit(requests[i]);
    ASSERT_TRUE(engine.last_status().ok()) << engine.last_status();
    engine.Drain();
    alone.push_back(sink->answer);
    executed += sink->answer.usage.compute.executed_token_layers;
    skipped += sink->answer.usage.compute.skipped_token_layers;
  }
  EXPECT_GT(executed, 0);
  EXPECT_GT(skipped, 0);
  ExpectSameInACrowd(Family::kTuned, 32, requests, alone);
}

TEST(EngineTest, WithoutACapacityNothingIsDropped) {
  for (const auto mode : {RoutingParams::Mode::kModelDefault, RoutingParams::Mode::kNoDrop}) {
    TestEngine engine({.family = Family::kMoe});
    Request request;
    request.prompt.assign(30, 5);
    request.routing.mode = mode;
    const auto sink = engine.Submit(request);
    ASSERT_TRUE(engine.last_status().ok()) << engine.last_status();
    engine.Drain();
    EXPECT_EQ(sink->answer.usage.compute.dropped_experts, 0);
  }
}

TEST(EngineTest, AModelWithoutARuleForGeneratedTokensScoresPrompts) {
  TestEngine engine({.scores_only = true});
  Request request;
  request.prompt = {1, 2, 3};
  request.stop.max_tokens = 2;
  const auto refused = engine.Submit(request);
  EXPECT_EQ(ErrorCodeOf(engine.last_status()), "unsupported_parameter");
  request.stop.max_tokens = 1;
  const auto sink = engine.Submit(request);
  ASSERT_TRUE(engine.last_status().ok()) << engine.last_status();
  engine.Drain();
  EXPECT_EQ(sink->answer.tokens.size(), 1u);
}

TEST(EngineTest, CancellingAtAnyStepLeaksNothing) {
  for (int cancel_at = 0; cancel_at < 30; ++cancel_at) {
    TestEngine engine({.family = Family::kMod, .max_batch_tokens = 9});
    const auto requests = RandomRequests(4, Family::kMod);
    std::vector<std::shared_ptr<AnswerSink>> sinks;
    for (const Request& request : requests) sinks.push_back(engine.Submit(request));
    for (int step = 0; step < cancel_at; ++step) engine->Step();
    for (uint64_t id = 1; id <= 4; ++id) engine->Cancel(RequestId{id}, "disconnect");
    EXPECT_EQ(engine->num_active(), 0);
    EXPECT_TRUE(engine->CheckIntegrity().ok()) << engine->CheckIntegrity();
    for (const auto& sink : sinks) EXPECT_EQ(sink->answer.last_events, 1);
  }
}

TEST(EngineTest, UsageEqualsABruteForceCount) {
  TestEngine engine({.family = Family::kMod});
  Request request;
  for (int32_t i = 0; i < 20; ++i) request.prompt.push_back(i * 3 % 96);
  request.stop = {.max_tokens = 12, .ignore_eos = true};
  request.sampling.temperature = 0.0f;
  request.routing.trace = true;
  const auto sink = engine.Submit(request);
  engine.Drain();
  const ComputeUsage& compute = sink->answer.usage.compute;
  EXPECT_EQ(sink->answer.usage.prompt_tokens, 20);
  EXPECT_EQ(sink->answer.usage.completion_tokens, 12);
  EXPECT_EQ(compute.rows, 20 + 11);  // the last token is never fed back
  EXPECT_EQ(compute.all_token_layers, compute.rows * 4);
  EXPECT_EQ(compute.executed_token_layers + compute.skipped_token_layers, compute.rows * 2);
  EXPECT_GT(compute.skipped_token_layers, 0);
  EXPECT_LT(compute.flops, compute.dense_flops);

  const MetricsSnapshot metrics = engine->metrics().Snapshot();
  uint64_t executed = 0, skipped = 0;
  for (const DepthLayerMetrics& layer : metrics.depth_layers) {
    executed += layer.executed;
    skipped += layer.skipped;
  }
  EXPECT_EQ(executed, static_cast<uint64_t>(compute.executed_token_layers));
  EXPECT_EQ(skipped, static_cast<uint64_t>(compute.skipped_token_layers));
  EXPECT_DOUBLE_EQ(metrics.flops_executed, compute.flops);

  // FLOPs of the plain model by hand: every row takes layers 0 and 2; routed layers as counted; the
  // head for the sampled rows only.
  const double projections = 2.0 * (48 * 96 + 48 * 48) + 2.0 * 3 * 48 * 80;
  const double per_slot = 4.0 * 48;
  double expected = 0.0;
  for (int64_t row = 0; row < compute.rows; ++row) {
    expected += 2 * (projections + per_slot * static_cast<double>(row + 1)) + 2 * (2.0 * 48);
  }
  expected += static_cast<double>(compute.executed_token_layers) * projections;
  expected += 12 * 2.0 * 97 * 48;
  // Of rows whose logits nobody wanted the last layer made keys and values only.
  ASSERT_EQ(sink->answer.traces.size(), 12u);
  const auto wanted = std::count_if(
      sink->answer.traces.begin(), sink->answer.traces.end(), [](const TokenTrace& trace) {
        return std::ranges::find(trace.executed_layers, 3) != trace.executed_layers.end();
      });
  ASSERT_EQ(metrics.depth_layers.back().layer, "3");
  const auto unwanted = static_cast<int64_t>(metrics.depth_layers.back().executed) - wanted;
  EXPECT_GT(unwanted, 0);
  expected -= static_cast<double>(unwanted) * (projections - 2.0 * 48 * 48);
  // What remains is attention inside the routed layers, at most as much as full attention there.
  EXPECT_GE(compute.flops, expected);
  EXPECT_LE(compute.flops,
            expected + static_cast<double>(compute.executed_token_layers) * per_slot * 31);
}

TEST(EngineTest, CapacityKnobIsExactAtItsEnds) {
  for (const double capacity : {0.0, 1.0}) {
    TestEngine engine({.family = Family::kMod});
    Request request;
    request.prompt = {5, 6, 7, 8, 9};
    request.stop = {.max_tokens = 5, .ignore_eos = true};
    request.routing.capacity = capacity;
    const auto sink = engine.Submit(request);
    engine.Drain();
    const ComputeUsage& compute = sink->answer.usage.compute;
    EXPECT_EQ(capacity == 0.0 ? compute.executed_token_layers : compute.skipped_token_layers, 0);
  }
}

TEST(EngineTest, RefusesWhatItCannotHonour) {
  TestEngine dense({.family = Family::kDense});
  Request request;
  request.prompt = {1, 2, 3};
  const auto code = [&](TestEngine& engine, const Request& bad) {
    const auto sink = engine.Submit(bad);
    EXPECT_FALSE(engine.last_status().ok());
    EXPECT_EQ(sink->answer.last_events, 0) << "a refused request gets no event";
    return ErrorCodeOf(engine.last_status());
  };
  Request bad = request;
  bad.routing.capacity = 0.5;
  EXPECT_EQ(code(dense, bad), "unsupported_parameter");
  bad = request;
  bad.routing.experts_per_token = 1;
  EXPECT_EQ(code(dense, bad), "unsupported_parameter");
  bad = request;
  bad.routing.mode = RoutingParams::Mode::kPredictor;
  EXPECT_EQ(code(dense, bad), "unsupported_parameter");
  bad = request;
  bad.routing.max_depth = 2;
  EXPECT_EQ(code(dense, bad), "unsupported_parameter");
  bad = request;
  bad.prompt.clear();
  EXPECT_EQ(code(dense, bad), "empty_prompt");
  bad = request;
  bad.prompt = {97};
  EXPECT_EQ(code(dense, bad), "token_out_of_vocab");
  bad = request;
  bad.stop.max_tokens = 62;
  EXPECT_EQ(code(dense, bad), "context_length_exceeded");
  bad = request;
  bad.stop.max_tokens = 48;
  TestEngine small({.kv_capacity_tokens = 40});
  EXPECT_EQ(code(small, bad), "kv_capacity");
  TestEngine narrow({.family = Family::kMod, .max_batch_tokens = 8});
  bad = request;
  bad.prompt.assign(9, 1);
  bad.routing.mode = RoutingParams::Mode::kTopKPrompt;
  EXPECT_EQ(code(narrow, bad), "context_length_exceeded");
  TestEngine tuned({.family = Family::kTuned, .max_batch_tokens = 8});
  bad.routing.mode = RoutingParams::Mode::kModelDefault;
  EXPECT_EQ(code(tuned, bad), "context_length_exceeded");
  EXPECT_EQ(dense->num_active(), 0);
}

TEST(EngineTest, DeadlinesEndRequestsWithAnError) {
  TestEngine engine({});
  Request request;
  request.prompt = {1, 2, 3};
  request.stop = {.max_tokens = 50, .ignore_eos = true};
  request.timeout = absl::Milliseconds(100);
  const auto sink = engine.Submit(request);
  engine->Step();
  engine.clock().now += absl::Milliseconds(200);
  engine->Step();
  EXPECT_EQ(sink->answer.finish, FinishReason::kError);
  EXPECT_EQ(ErrorCodeOf(sink->answer.error), "deadline_exceeded");
  EXPECT_TRUE(engine->CheckIntegrity().ok());
}

TEST(EngineTest, MaxTokensZeroScoresThePromptOnly) {
  TestEngine engine({});
  Request request;
  request.prompt = {1, 2, 3, 4};
  request.stop.max_tokens = 0;
  request.sampling.prompt_logprobs = 1;
  const auto sink = engine.Submit(request);
  engine.Drain();
  EXPECT_EQ(sink->answer.tokens.size(), 0u);
  EXPECT_EQ(sink->answer.prompt_logprob_bits.size(), 4u);
  EXPECT_EQ(sink->answer.finish, FinishReason::kLength);
}

TEST(EngineTest, PausedRequestsWaitAndGoOn) {
  TestEngine engine({});
  Request request;
  request.prompt = {1, 2, 3};
  request.stop = {.max_tokens = 8, .ignore_eos = true};
  const auto sink = engine.Submit(request);
  engine->Step();
  engine->SetPaused(engine.last_id(), true);
  EXPECT_FALSE(engine->HasRunnable());
  EXPECT_FALSE(engine->Step());
  engine->SetPaused(engine.last_id(), false);
  engine.Drain();
  EXPECT_EQ(sink->answer.tokens.size(), 8u);
}

}  // namespace
}  // namespace sluice::testing
