#include "engine/cache/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "kernels/reference/reference_backend.h"

namespace sluice {
namespace {

using kernels::KvGeometry;
using kernels::ReferenceBackend;

constexpr KvGeometry kSmall{.num_kv_heads = 1, .key_dim = 2, .value_dim = 2, .page_tokens = 4};
constexpr KvGeometry kLarge{.num_kv_heads = 2, .key_dim = 4, .value_dim = 4, .page_tokens = 8};

std::vector<KvClassSpec> DenseAndRouted() {
  return {{.name = "all", .num_layers = 3, .geometry = kSmall, .routed = false},
          {.name = "layer 1", .num_layers = 1, .geometry = kSmall, .routed = true}};
}

class KvCacheTest : public ::testing::Test {
 protected:
  // Room for exactly `pages` pages of kSmall.
  std::unique_ptr<KvCache> Make(int64_t pages, int32_t max_tokens = 64, bool poison = false) {
    auto cache = KvCache::Create(backend_, DenseAndRouted(),
                                 {.memory_bytes = pages * backend_.KvPageBytes(kSmall),
                                  .max_sequences = 4,
                                  .max_tokens = max_tokens,
                                  .poison_freed_pages = poison});
    EXPECT_TRUE(cache.ok()) << cache.status();
    return std::move(*cache);
  }

  static std::vector<int32_t> Append(KvCache& cache,
                                     KvSequence sequence,
                                     int32_t kv_class,
                                     const std::vector<int32_t>& positions) {
    std::vector<int32_t> slots(positions.size());
    cache.Append(sequence, kv_class, positions, slots);
    return slots;
  }

  static std::vector<int32_t> Range(int32_t first, int32_t count) {
    std::vector<int32_t> range(static_cast<size_t>(count));
    std::iota(range.begin(), range.end(), first);
    return range;
  }

  ReferenceBackend backend_;
};

TEST_F(KvCacheTest, ReserveTakesTheWorstCaseOfEveryClass) {
  auto cache = Make(40);
  const KvSequence s = *cache->Open();
  ASSERT_TRUE(cache->Reserve(s, 5).ok());
  EXPECT_EQ(cache->num_used_pages(), 2 * (3 + 1));  // 5 rows are 2 blocks, of 3 + 1 layers
  EXPECT_TRUE(cache->CheckIntegrity().ok());
}

TEST_F(KvCacheTest, ReserveCountsPagesThatAreAlreadyHeld) {
  auto cache = Make(40);
  const KvSequence s = *cache->Open();
  ASSERT_TRUE(cache->Reserve(s, 5).ok());
  ASSERT_TRUE(cache->Reserve(s, 8).ok());
  EXPECT_EQ(cache->num_used_pages(), 8);
  ASSERT_TRUE(cache->Reserve(s, 1).ok());
  EXPECT_EQ(cache->num_used_pages(), 8);
}

TEST_F(KvCacheTest, ReserveTakesNothingWhenPagesAreShort) {
  auto cache = Make(11);
  const KvSequence a = *cache->Open();
  const KvSequence b = *cache->Open();
  ASSERT_TRUE(cache->Reserve(a, 4).ok());
  EXPECT_EQ(cache->Reserve(b, 8).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cache->num_used_pages(), 4);
  EXPECT_TRUE(cache->Reserve(b, 4).ok());
  EXPECT_TRUE(cache->CheckIntegrity().ok());
}

TEST_F(KvCacheTest, ReserveBeyondMaxTokensIsRefused) {
  auto cache = Make(200, 10);
  const KvSequence s = *cache->Open();
  EXPECT_EQ(cache->Reserve(s, 11).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cache->num_used_pages(), 0);
  EXPECT_TRUE(cache->Reserve(s, 10).ok());
}

TEST_F(KvCacheTest, CommitReturnsTheSurplusOfSkippedRows) {
  auto cache = Make(40);
  const KvSequence s = *cache->Open();
  ASSERT_TRUE(cache->Reserve(s, 9).ok());
  EXPECT_EQ(cache->num_used_pages(), 12);
  EXPECT_EQ(Append(*cache, s, 0, Range(0, 9)), Range(0, 9));
  EXPECT_EQ(Append(*cache, s, 1, {1, 7}), Range(0, 2));
  cache->Commit(s);
  EXPECT_EQ(cache->num_used_pages(), 3 * 3 + 1);
  EXPECT_EQ(cache->Length(s, 0), 9);
  EXPECT_EQ(cache->Length(s, 1), 2);
  EXPECT_TRUE(cache->CheckIntegrity().ok());
}

TEST_F(KvCacheTest, SkippedRowsWriteNoPositions) {
  auto cache = Make(40);
  const KvSequence s = *cache->Open();
  ASSERT_TRUE(cache->Reserve(s, 12).ok());
  Append(*cache, s, 1, {2, 3, 9});
  const auto positions = cache->Positions(s, 1);
  EXPECT_EQ(std::vector<int32_t>(positions.begin(), positions.end()),
            (std::vector<int32_t>{2, 3, 9}));
  EXPECT_EQ(cache->LowerBound(s, 1, 0), 0);
  EXPECT_EQ(cache->LowerBound(s, 1, 3), 1);
  EXPECT_EQ(cache->LowerBound(s, 1, 4), 2);
  EXPECT_EQ(cache->LowerBound(s, 1, 10), 3);
}

TEST_F(KvCacheTest, LowerBoundOfAnUnroutedClassIsThePosition) {
  auto cache = Make(40);
  const KvSequence s = *cache->Open();
  ASSERT_TRUE(cache->Reserve(s, 6).ok());
  Append(*cache, s, 0, Range(0, 6));
  EXPECT_EQ(cache->LowerBound(s, 0, 4), 4);
  EXPECT_EQ(cache->LowerBound(s, 0, 60), 6);
  EXPECT_EQ(cache->LowerBound(s, 0, -3), 0);
}

TEST_F(KvCacheTest, TruncateDropsRowsByPositionInEveryClass) {
  auto cache = Make(40);
  const KvSequence s = *cache->Open();
  ASSERT_TRUE(cache->Reserve(s, 12).ok());
  Append(*cache, s, 0, Range(0, 12));
  Append(*cache, s, 1, {0, 5, 6, 11});
  cache->Truncate(s, 6);
  EXPECT_EQ(cache->Length(s, 0), 6);
  EXPECT_EQ(cache->Length(s, 1), 2);
  EXPECT_EQ(cache->num_used_pages(), 12);
  cache->Commit(s);
  EXPECT_EQ(cache->num_used_pages(), 2 * 3 + 1);
  EXPECT_EQ(Append(*cache, s, 1, {6}), (std::vector<int32_t>{2}));
}

TEST_F(KvCacheTest, FreeGivesEverythingBackAndThePlaceCanBeUsedAgain) {
  auto cache = Make(40);
  std::set<KvSequence> places;
  for (int i = 0; i < 4; ++i) places.insert(*cache->Open());
  EXPECT_EQ(places.size(), 4u);
  EXPECT_EQ(cache->Open().status().code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(cache->Reserve(KvSequence{2}, 7).ok());
  Append(*cache, KvSequence{2}, 0, Range(0, 7));
  cache->Free(KvSequence{2});
  EXPECT_EQ(cache->num_used_pages(), 0);
  EXPECT_EQ(*cache->Open(), KvSequence{2});
  EXPECT_EQ(cache->Length(KvSequence{2}, 0), 0);
  EXPECT_TRUE(cache->CheckIntegrity().ok());
}

TEST_F(KvCacheTest, EveryLayerOfEverySequenceHasItsOwnPages) {
  auto cache = Make(64);
  std::set<int32_t> pages;
  for (int32_t s = 0; s < 2; ++s) {
    ASSERT_TRUE(cache->Reserve(*cache->Open(), 8).ok());
  }
  for (int32_t c = 0; c < 2; ++c) {
    for (int32_t layer = 0; layer < (c == 0 ? 3 : 1); ++layer) {
      const kernels::KvLayerView view = cache->LayerView(c, layer);
      EXPECT_EQ(view.page_bytes, backend_.KvPageBytes(kSmall));
      for (int64_t s = 0; s < 2; ++s) {
        for (int64_t block = 0; block < 2; ++block) {
          pages.insert(view.page_table[s * view.sequence_stride + block * view.block_stride]);
        }
        EXPECT_EQ(view.page_table[s * view.sequence_stride + 2 * view.block_stride], -1);
      }
    }
  }
  EXPECT_EQ(pages.size(), 2u * 2u * 4u);
  EXPECT_EQ(pages.count(-1), 0u);
}

TEST_F(KvCacheTest, CanEverFitCountsAllClasses) {
  auto cache = Make(11, 64);
  EXPECT_TRUE(cache->CanEverFit(0));
  EXPECT_TRUE(cache->CanEverFit(8));
  EXPECT_FALSE(cache->CanEverFit(9));
  EXPECT_FALSE(Make(1000, 16)->CanEverFit(17));
}

TEST_F(KvCacheTest, BytesSavedCountsTheRowsThatWereSkipped) {
  auto cache = Make(40);
  const KvSequence s = *cache->Open();
  ASSERT_TRUE(cache->Reserve(s, 8).ok());
  Append(*cache, s, 0, Range(0, 8));
  Append(*cache, s, 1, {3, 4});
  EXPECT_EQ(cache->BytesSaved(0), 0);
  EXPECT_EQ(cache->BytesSaved(1), 6 * backend_.KvPageBytes(kSmall) / 4);
  cache->Truncate(s, 4);
  EXPECT_EQ(cache->BytesSaved(1), 3 * backend_.KvPageBytes(kSmall) / 4);
  cache->Free(s);
  EXPECT_EQ(cache->BytesSaved(1), 0);
}

TEST_F(KvCacheTest, FreedPagesArePoisoned) {
  auto cache = Make(8, 64, true);
  const KvSequence s = *cache->Open();
  ASSERT_TRUE(cache->Reserve(s, 4).ok());
  const kernels::KvLayerView view = cache->LayerView(0, 1);
  const int32_t page = view.page_table[0];
  auto* first = reinterpret_cast<float*>(static_cast<char*>(view.pool) + page * view.page_bytes);
  EXPECT_TRUE(std::isnan(*first));
  *first = 1.0f;
  cache->Free(s);
  EXPECT_TRUE(std::isnan(*first));
}

TEST_F(KvCacheTest, ScrubbedPagesAreZero) {
  auto cache = Make(8, 64, true);
  const KvSequence s = *cache->Open();
  ASSERT_TRUE(cache->Reserve(s, 4).ok());
  cache->Scrub(s);
  for (int32_t layer = 0; layer < 3; ++layer) {
    const kernels::KvLayerView view = cache->LayerView(0, layer);
    const auto* page = static_cast<char*>(view.pool) + view.page_table[0] * view.page_bytes;
    EXPECT_TRUE(std::all_of(page, page + view.page_bytes, [](char byte) { return byte == 0; }));
  }
}

TEST_F(KvCacheTest, GeometriesShareMemoryInProportionToTheirBytesPerToken) {
  const std::vector<KvClassSpec> classes = {
      {.name = "a", .num_layers = 2, .geometry = kSmall, .routed = false},
      {.name = "b", .num_layers = 1, .geometry = kLarge, .routed = true},
      {.name = "c", .num_layers = 1, .geometry = kSmall, .routed = true}};
  // One block of 8 tokens in every layer: 2 x 2 + 2 small pages and 1 large one.
  const int64_t block = 6 * backend_.KvPageBytes(kSmall) + backend_.KvPageBytes(kLarge);
  EXPECT_EQ(KvBytesPerToken(backend_, classes), block / 8);
  auto cache = KvCache::Create(backend_, classes,
                               {.memory_bytes = 10 * block, .max_sequences = 8, .max_tokens = 256});
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ((*cache)->num_pages(), 70);
  EXPECT_TRUE((*cache)->CanEverFit(80));
  EXPECT_FALSE((*cache)->CanEverFit(81));
  const KvSequence s = *(*cache)->Open();
  ASSERT_TRUE((*cache)->Reserve(s, 80).ok());
  EXPECT_EQ((*cache)->num_used_pages(), 70);
  EXPECT_NE((*cache)->LayerView(0, 0).pool, (*cache)->LayerView(1, 0).pool);
  EXPECT_EQ((*cache)->LayerView(0, 0).pool, (*cache)->LayerView(2, 0).pool);
}

TEST_F(KvCacheTest, TakesNoMoreMemoryThanAllSequencesCanUse) {
  auto cache = Make(1'000'000, 8);
  EXPECT_EQ(cache->num_pages(), 4 * 2 * 4);
}

TEST_F(KvCacheTest, TooLittleMemoryIsRefused) {
  const auto cache = KvCache::Create(
      backend_, DenseAndRouted(),
      {.memory_bytes = 3 * backend_.KvPageBytes(kSmall), .max_sequences = 1, .max_tokens = 4});
  EXPECT_EQ(cache.status().code(), absl::StatusCode::kInvalidArgument);
}

using KvCacheDeathTest = KvCacheTest;

TEST_F(KvCacheDeathTest, AppendWithoutRoomIsABug) {
  auto cache = Make(40);
  const KvSequence s = *cache->Open();
  ASSERT_TRUE(cache->Reserve(s, 4).ok());
  EXPECT_DEATH(Append(*cache, s, 0, Range(0, 5)), "check failed");
}

TEST_F(KvCacheDeathTest, PositionsMustAscend) {
  auto cache = Make(40);
  const KvSequence s = *cache->Open();
  ASSERT_TRUE(cache->Reserve(s, 4).ok());
  EXPECT_DEATH(Append(*cache, s, 1, {3, 3}), "check failed");
  EXPECT_DEATH(Append(*cache, s, 0, {1}), "check failed");
}

TEST_F(KvCacheDeathTest, UseAfterFreeIsABug) {
  auto cache = Make(40);
  const KvSequence s = *cache->Open();
  cache->Free(s);
  EXPECT_DEATH(cache->Free(s), "check failed");
  EXPECT_DEATH(static_cast<void>(cache->Length(s, 0)), "check failed");
}

}  // namespace
}  // namespace sluice
