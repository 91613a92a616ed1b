// A forward step allocates nothing: arenas, placements and statistics are sized when the model is
// loaded.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/support/model_harness.h"
#include "tests/support/random_spec.h"

namespace {

std::atomic<int64_t> allocations{0};

}  // namespace

void* operator new(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}
void* operator new[](size_t bytes) { return operator new(bytes); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  const auto align = static_cast<size_t>(alignment);
  if (void* memory = std::aligned_alloc(align, (bytes + align - 1) / align * align)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace sluice::testing {
namespace {

// Steps of one sequence through everything Model::Forward touches, with buffers prepared outside.
int64_t AllocationsOfSteps(uint32_t seed, kernels::WeightFormat format) {
  const ModelSpec spec = RandomSpec(seed);
  MemoryWeightStore weights;
  FillWeights(spec, seed, weights);
  auto backend = kernels::CreateBackend({.device = "cpu", .threads = 2}).value();
  auto model =
      BuildModel(spec, weights, *backend, {.max_rows = 64, .weight_format = format}).value();
  auto cache =
      KvCache::Create(*backend, model->kv_classes(),
                      {.memory_bytes = int64_t{1} << 24, .max_sequences = 4, .max_tokens = 64})
          .value();
  Workspace workspace = Workspace::Create(*backend, model->WorkspaceBytes()).value();
  KvPlacements placements(model->kv_rules(), 64);
  ForwardStats stats;
  stats.Reserve(64, static_cast<int32_t>(model->instances().size()),
                model->max_expert_ids_per_row() * 64);
  const KvSequence sequence = cache->Open().value();
  double checksum = 0.0;
  const auto step = [&](int32_t first, int32_t count) {
    std::vector<int32_t> tokens(static_cast<size_t>(count), 3), positions, wanted = {count - 1};
    for (int32_t i = 0; i < count; ++i) positions.push_back(first + i);
    std::vector<KvSequence> sequences(static_cast<size_t>(count), sequence);
    std::vector<uint8_t> is_prompt(static_cast<size_t>(count), 1);
    std::vector<RowRouting> routing(static_cast<size_t>(count));
    const Batch batch{tokens, positions, sequences, is_prompt, routing, wanted};
    stats.Reset(count);
    placements.Reset();
    ForwardContext context{*backend, *cache, workspace, stats, placements, batch};
    const auto sink = [&](int32_t, std::span<float> row) {
      checksum += static_cast<double>(row[0]);
    };
    const int64_t before = allocations.load();
    SLUICE_CHECK(cache->Reserve(sequence, count).ok());
    model->Forward(context, sink);
    cache->Commit(sequence);
    return allocations.load() - before;
  };
  step(0, 20);  // warm-up: lazily started threads, first-use tables
  int64_t total = step(20, 17);
  for (int32_t position = 37; position < 60; ++position) total += step(position, 1);
  EXPECT_TRUE(std::isfinite(checksum));
  return total;
}

TEST(AllocationTest, TheCounterCounts) {
  const int64_t before = allocations.load();
  std::vector<int> list(100);
  EXPECT_GT(allocations.load() - before, 0) << list.size();
}

TEST(AllocationTest, AStepAllocatesNothing) {
  for (const auto format :
       {kernels::WeightFormat::kF32, kernels::WeightFormat::kInt8, kernels::WeightFormat::kInt4}) {
    for (uint32_t seed = 0; seed < 25; ++seed)
      EXPECT_EQ(AllocationsOfSteps(seed, format), 0) << kernels::Name(format) << " seed " << seed;
  }
}

}  // namespace
}  // namespace sluice::testing
