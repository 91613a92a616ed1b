// After the first token, sampling takes no memory: a step of the engine must not.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <new>

#include "engine/sampling/sampler.h"

namespace {

int64_t num_allocations = 0;

}  // namespace

// Not inlined, or the compiler sees malloc() where it expects new.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++num_allocations;
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) std::abort();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t /*bytes*/) noexcept {
  std::free(memory);
}

namespace sluice {
namespace {

TEST(SamplerAllocationTest, OnlyTheFirstSampleAllocates) {
  constexpr int32_t kVocabulary = 4000;
  const std::vector<SamplingParams> all = {
      {.temperature = 0.0f}, {},
      {.top_k = 40},         {.top_k = 2000},
      {.top_p = 0.9f},       {.min_p = 0.01f},
      {.typical_p = 0.5f},   {.repetition_penalty = 1.2f, .bad_words = {{1, 2}}}};
  for (const SamplingParams& params : all) {
    Sampler sampler(params, kVocabulary);
    std::vector<float> logits(kVocabulary);
    int64_t after_first = 0;
    for (int step = 0; step < 20; ++step) {
      // From one sharp peak to a flat row, so that the filters keep more and more.
      for (size_t i = 0; i < logits.size(); ++i) {
        logits[i] = static_cast<float>(20 - step) * std::sin(static_cast<float>(i));
      }
      const int64_t before = num_allocations;
      ASSERT_TRUE(sampler.Sample(logits, {}).ok());
      if (step > 0) after_first += num_allocations - before;
      sampler.Append(step, true);
    }
    EXPECT_EQ(after_first, 0);
  }
  EXPECT_GT(num_allocations, 0);
}

}  // namespace
}  // namespace sluice
