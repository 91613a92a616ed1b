// No op allocates once the weights are packed and the scratch is reserved. Replaces the global
// operator new of this binary by a counting one.
#include <atomic>
#include <cstdlib>
#include <new>

#include "kernels/host_memory.h"
#include "tests/kernels/backend_param.h"

namespace {
std::atomic<int64_t> allocations{0};

void* CountedAllocate(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* out = std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
  if (out == nullptr) std::abort();
  return out;
}
}  // namespace

// gcc sees free() below inlined next to operator new and does not know that both are ours.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif

void* operator new(std::size_t bytes) { return CountedAllocate(bytes, 16); }
void* operator new[](std::size_t bytes) { return CountedAllocate(bytes, 16); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return CountedAllocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* data) noexcept { std::free(data); }
void operator delete[](void* data) noexcept { std::free(data); }
void operator delete(void* data, std::size_t) noexcept { std::free(data); }
void operator delete[](void* data, std::size_t) noexcept { std::free(data); }
void operator delete(void* data, std::align_val_t) noexcept { std::free(data); }
void operator delete(void* data, std::size_t, std::align_val_t) noexcept { std::free(data); }

namespace sluice::kernels {
namespace {

constexpr int32_t kRows = 40;
constexpr int64_t kDim = 96;
constexpr int64_t kWide = 600;
constexpr int32_t kAssignments = 1100;

class AllocationTest : public testing::TestWithParam<WeightFormat> {};

TEST_P(AllocationTest, OpsDoNotAllocate) {
  std::unique_ptr<Backend> backend = std::move(*CreateBackend({.device = "cpu", .threads = 2}));
  Matrix weight = RandomMatrix(kDim, kDim, 1);
  const WeightSource source = SourceOf(weight);
  const PackedMatrix packed = std::move(*backend->Pack({&source, 1}, GetParam()));
  PackedExperts experts = std::move(*backend->AllocateExperts(4, kDim, kDim, true, GetParam()));
  for (int32_t e = 0; e < 4; ++e) backend->PackExpert({source, source, source}, e, experts);
  // More outputs than two threads share, and more assignments than are computed together.
  Matrix wide_weight = RandomMatrix(kWide, kDim, 4);
  const WeightSource wide_source = SourceOf(wide_weight);
  const PackedMatrix wide = std::move(*backend->Pack({&wide_source, 1}, GetParam()));
  std::vector<int32_t> expert(kAssignments, 0), row(kAssignments);
  for (int32_t i = 0; i < kAssignments; ++i) row[static_cast<size_t>(i)] = i % kRows;
  Matrix wide_out(kRows, kWide);
  backend->ReserveScratch(kRows);
  const KvGeometry geometry{2, 48, 48, DType::kBF16, 16};
  const int64_t page_bytes = backend->KvPageBytes(geometry);
  const Buffer pool = std::move(*backend->Allocate(static_cast<size_t>(3 * page_bytes)));
  const int32_t pages[] = {2, 0, 1};
  std::vector<int32_t> sequence(kRows, 0), slot(kRows), begin(kRows, 0), end(kRows);
  for (int32_t i = 0; i < kRows; ++i) {
    slot[static_cast<size_t>(i)] = i;
    end[static_cast<size_t>(i)] = i + 1;
  }
  Matrix x = RandomMatrix(kRows, kDim, 2);
  Matrix y(kRows, kDim);
  Matrix logits = RandomMatrix(kRows, 4, 3);
  std::vector<int32_t> ids(2 * kRows);
  std::vector<float> weights(2 * kRows);
  std::vector<char> workspace(static_cast<size_t>(backend->MoeWorkspaceBytes(experts, kRows, 2)));

  const int64_t before = allocations.load() + HostBuffersMade();
  backend->Linear({.x = x.View(),
                   .x_rows = AllRows(kRows),
                   .weight = &packed,
                   .out = y.View(),
                   .out_rows = AllRows(kRows)});
  backend->Norm(
      {.x = x.View(), .x_rows = AllRows(kRows), .out = y.View(), .out_rows = AllRows(kRows)});
  const KvLayerView kv{geometry, pool.data(), page_bytes, pages, 3, 1};
  const KvRows rows{sequence.data(), slot.data(), begin.data(), end.data(), kRows};
  backend->AppendKv({kv, rows, x.View(), x.View()});
  backend->PagedAttention(
      {.kv = kv, .rows = rows, .query = x.View(), .num_heads = 2, .out = y.View()});
  backend->Route({.top_k = 2,
                  .logits = logits.View(),
                  .rows = kRows,
                  .experts = ids.data(),
                  .weights = weights.data()});
  MoeFfnArgs moe{.x = x.View(), .x_rows = AllRows(kRows), .experts = &experts};
  moe.expert_ids = ids.data();
  moe.weights = weights.data();
  moe.top_k = 2;
  moe.out = y.View();
  moe.out_rows = AllRows(kRows);
  moe.workspace = workspace.data();
  backend->MoeFfn(moe);
  for (const PackedMatrix* matrix : {&packed, &wide}) {
    backend->ExpertLinear({.x = x.View(),
                           .weights = {matrix, 1},
                           .expert = expert.data(),
                           .x_row = row.data(),
                           .out_row = row.data(),
                           .count = kAssignments,
                           .out = wide_out.View()});
  }
  EXPECT_EQ(allocations.load() + HostBuffersMade() - before, 0);
  for (float value : y.values) ASSERT_TRUE(std::isfinite(value));
}

INSTANTIATE_TEST_SUITE_P(Formats,
                         AllocationTest,
                         testing::ValuesIn(Formats()),
                         [](const auto& param) { return std::string(Name(param.param)); });

}  // namespace
}  // namespace sluice::kernels
