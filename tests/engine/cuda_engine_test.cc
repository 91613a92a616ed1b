// The engine on an emulated GPU: its answers, a device that fails under way, memory that is not
// enough.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "engine/engine_thread.h"
#include "tests/support/fake_engine.h"
#include "tests/support/memory_weight_store.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {
namespace {

class Answer final : public TokenSink {
 public:
  void OnEvent(TokenEvent event) override {
    tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
    if (event.finish == FinishReason::kNone) return;
    error = event.error;
    done.Notify();
  }
  std::vector<int32_t> tokens;
  absl::Status error;
  absl::Notification done;
};

absl::StatusOr<std::unique_ptr<RealModelRunner>> MakeRunner(const EngineConfig& config) {
  const ModelSpec spec = PlainSpec(2);
  MemoryWeightStore weights;
  FillWeights(spec, 5, weights);
  return RealModelRunner::Create(config, spec, weights, nullptr);
}

std::unique_ptr<EngineThread> MakeEngine(const std::string& device, Clock& clock) {
  const EngineConfig config{.device = device, .threads = 1, .max_batch_tokens = 32};
  LoadedModel model;
  auto runner = MakeRunner(config);
  SLUICE_CHECK(runner.ok()) << runner.status();
  model.runner = *std::move(runner);
  model.tokenizer = MakeFakeTokenizer();
  model.chat_template = MakeFakeChatTemplate();
  model.card.id = "test";
  model.card.vocab_size = 61;
  model.card.max_context_tokens = 64;
  model.card.max_batch_tokens = config.max_batch_tokens;
  model.card.num_layer_instances = 2;
  return std::make_unique<EngineThread>(config, std::move(model), clock);
}

Request MakeRequest(uint32_t seed) {
  Request request;
  std::mt19937 random(seed);
  for (uint32_t i = 0; i < 1 + seed % 9; ++i)
    request.prompt.push_back(static_cast<int32_t>(random() % 61));
  request.stop = {.max_tokens = 12, .ignore_eos = true};
  request.sampling.temperature = 0.0f;
  return request;
}

// The answers to eight requests that run together.
std::vector<std::vector<int32_t>> Answers(EngineThread& engine) {
  std::vector<std::shared_ptr<Answer>> answers;
  for (uint32_t seed = 0; seed < 8; ++seed) {
    answers.push_back(std::make_shared<Answer>());
    EXPECT_TRUE(engine.Submit(MakeRequest(seed), answers.back()).ok());
  }
  std::vector<std::vector<int32_t>> tokens;
  for (const auto& answer : answers) {
    answer->done.WaitForNotification();
    EXPECT_TRUE(answer->error.ok()) << answer->error;
    tokens.push_back(answer->tokens);
  }
  return tokens;
}

TEST(CudaEngineTest, AnswersAsTheCpuDoes) {
  SteadyClock clock;
  const auto gpu = MakeEngine("cuda", clock);
  const auto cpu = MakeEngine("cpu", clock);
  EXPECT_EQ(Answers(*gpu), Answers(*cpu));
  EXPECT_TRUE(gpu->healthy());
}

TEST(CudaEngineTest, MemoryIsCountedByUse) {
  SteadyClock clock;
  const auto engine = MakeEngine("cuda", clock);
  Answers(*engine);
  const std::optional<GpuMetrics> gpu = engine->Snapshot().gpu;
  ASSERT_TRUE(gpu.has_value());
  EXPECT_TRUE(gpu->up);
  const auto runner = MakeRunner({.device = "cuda", .threads = 1, .max_batch_tokens = 32});
  ASSERT_TRUE(runner.ok()) << runner.status();
  const RunnerFacts& facts = (*runner)->facts();
  // Rows are padded, and there are tables besides.
  EXPECT_GE(gpu->weight_bytes, facts.weight_bytes);
  EXPECT_LT(gpu->weight_bytes, facts.weight_bytes + (1 << 20));
  EXPECT_EQ(gpu->kv_cache_bytes, facts.kv_bytes);
  EXPECT_GE(gpu->scratch_bytes, facts.arena_bytes);
  const int64_t parts = gpu->weight_bytes + gpu->kv_cache_bytes + gpu->scratch_bytes +
                        gpu->others_bytes + gpu->free_bytes;
  EXPECT_EQ(parts, static_cast<int64_t>(static_cast<double>(gpu->total_bytes) * 0.9));
  EXPECT_FALSE(MakeEngine("cpu", clock)->Snapshot().gpu.has_value());
}

TEST(CudaEngineTest, ALostDeviceEndsEveryRequest) {
  SteadyClock clock;
  const auto engine = MakeEngine("cuda", clock);
  cuda_emulation::FailAfter(150, cudaErrorIllegalAddress);
  auto first = std::make_shared<Answer>();
  auto second = std::make_shared<Answer>();
  ASSERT_TRUE(engine->Submit(MakeRequest(1), first).ok());
  const auto queued = engine->Submit(MakeRequest(2), second);
  first->done.WaitForNotification();
  EXPECT_EQ(first->error.code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(first->tokens.size(), 12u);
  if (queued.ok()) {
    second->done.WaitForNotification();
    EXPECT_EQ(second->error.code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_FALSE(engine->healthy());
  const std::optional<GpuMetrics> gpu = engine->Snapshot().gpu;
  ASSERT_TRUE(gpu.has_value());
  EXPECT_FALSE(gpu->up);
  const auto refused = engine->Submit(MakeRequest(3), std::make_shared<Answer>());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  cuda_emulation::FailAfter(-1, cudaSuccess);
}

TEST(CudaEngineTest, TooLittleMemoryNamesTheNumbers) {
  cuda_emulation::SetMemory(size_t{1} << 20);
  const auto runner = MakeRunner({.device = "cuda", .gpu_memory_fraction = 0.5});
  cuda_emulation::SetMemory(0);
  ASSERT_EQ(runner.status().code(), absl::StatusCode::kResourceExhausted) << runner.status();
  EXPECT_TRUE(absl::StrContains(runner.status().message(), "that --gpu-memory-fraction allows"))
      << runner.status();
}

TEST(CudaEngineTest, ADeviceThatIsNotThereIsRefused) {
  const auto runner = MakeRunner({.device = "cuda:7"});
  EXPECT_EQ(runner.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(runner.status().message(), "has 1 CUDA devices"))
      << runner.status();
}

TEST(CudaEngineTest, AMachineWithoutAGpuIsToldWhatIsMissing) {
  cuda_emulation::SetDeviceCount(0);
  const auto runner = MakeRunner({.device = "cuda"});
  cuda_emulation::SetDeviceCount(1);
  EXPECT_EQ(runner.status().code(), absl::StatusCode::kFailedPrecondition);
  for (const char* part : {"no CUDA device", "a driver for CUDA 13", "--device cpu"})
    EXPECT_TRUE(absl::StrContains(runner.status().message(), part)) << runner.status();
}

TEST(CudaEngineTest, Int4IsRefused) {
  const auto runner = MakeRunner({.device = "cuda", .weights = kernels::WeightFormat::kInt4});
  EXPECT_EQ(runner.status().code(), absl::StatusCode::kFailedPrecondition) << runner.status();
}

}  // namespace
}  // namespace sluice::testing
