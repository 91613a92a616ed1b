// Random operations on the cache against a plain model of it. SLUICE_CACHE_OPERATIONS sets their
// number.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>

#include "engine/cache/kv_cache.h"
#include "kernels/reference/reference_backend.h"

namespace sluice {
namespace {

constexpr int32_t kMaxTokens = 96;
constexpr int32_t kMaxSequences = 6;
constexpr kernels::KvGeometry kFirst{
    .num_kv_heads = 1, .key_dim = 1, .value_dim = 1, .page_tokens = 4};
constexpr kernels::KvGeometry kSecond{
    .num_kv_heads = 1, .key_dim = 2, .value_dim = 2, .page_tokens = 16};

// What the cache should hold: the positions of every class.
struct ExpectedSequence {
  std::vector<std::vector<int32_t>> rows;
  std::vector<int32_t> blocks;  // held
  int32_t next_position = 0;
  int32_t reserved = 0;  // rows of the last Reserve that were not yet appended
};

class RandomOperations {
 public:
  explicit RandomOperations(uint64_t seed) : random_(seed) {
    classes_ = {{.name = "all", .num_layers = 2, .geometry = kFirst, .routed = false},
                {.name = "x", .num_layers = 1, .geometry = kFirst, .routed = true},
                {.name = "y", .num_layers = 3, .geometry = kSecond, .routed = true}};
    auto cache = KvCache::Create(
        backend_, classes_,
        {.memory_bytes = 9000, .max_sequences = kMaxSequences, .max_tokens = kMaxTokens});
    EXPECT_TRUE(cache.ok()) << cache.status();
    cache_ = std::move(*cache);
  }

  void Run() {
    const int32_t choice = Uniform(0, 99);
    if (choice < 8) return OpenOne();
    if (expected_.empty()) return;
    auto entry = expected_.begin();
    std::advance(entry, Uniform(0, static_cast<int32_t>(expected_.size()) - 1));
    if (choice < 12) return FreeOne(entry);
    if (choice < 18) return TruncateOne(entry->first, entry->second);
    if (choice < 60) return ReserveOne(entry->first, entry->second);
    if (choice < 85) return AppendOne(entry->first, entry->second);
    CommitOne(entry->first, entry->second);
  }

  // Cheap, after every operation.
  void CheckCounts() const {
    int64_t pages = 0;
    for (const auto& [sequence, expected] : expected_) {
      for (size_t c = 0; c < classes_.size(); ++c) {
        pages += int64_t{expected.blocks[c]} * classes_[c].num_layers;
      }
    }
    ASSERT_EQ(cache_->num_used_pages(), pages);
  }

  void CheckAll() const {
    ASSERT_TRUE(cache_->CheckIntegrity().ok()) << cache_->CheckIntegrity();
    for (const auto& [sequence, expected] : expected_) {
      for (size_t c = 0; c < classes_.size(); ++c) {
        const auto kv_class = static_cast<int32_t>(c);
        const auto& rows = expected.rows[c];
        ASSERT_EQ(cache_->Length(sequence, kv_class), static_cast<int32_t>(rows.size()));
        if (!classes_[c].routed) continue;
        const auto stored = cache_->Positions(sequence, kv_class);
        ASSERT_TRUE(std::equal(stored.begin(), stored.end(), rows.begin(), rows.end()));
      }
    }
  }

  int64_t num_refused() const { return num_refused_; }
  int64_t num_skipped() const { return num_skipped_; }
  int64_t num_surplus() const { return num_surplus_; }

 private:
  using Entry = std::map<KvSequence, ExpectedSequence>::iterator;

  int32_t Uniform(int32_t low, int32_t high) {
    return low + static_cast<int32_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }

  int32_t BlocksOf(size_t kv_class, int32_t rows) const {
    const int32_t page_tokens = classes_[kv_class].geometry.page_tokens;
    return (rows + page_tokens - 1) / page_tokens;
  }

  void OpenOne() {
    const auto opened = cache_->Open();
    ASSERT_EQ(opened.ok(), expected_.size() < kMaxSequences);
    if (!opened.ok()) return;
    ASSERT_FALSE(expected_.contains(*opened));
    expected_[*opened] = {.rows = std::vector<std::vector<int32_t>>(classes_.size()),
                          .blocks = std::vector<int32_t>(classes_.size())};
  }

  void FreeOne(Entry entry) {
    cache_->Free(entry->first);
    expected_.erase(entry);
  }

  void TruncateOne(KvSequence sequence, ExpectedSequence& expected) {
    const int32_t position = Uniform(0, expected.next_position);
    cache_->Truncate(sequence, position);
    for (auto& rows : expected.rows) {
      rows.erase(std::lower_bound(rows.begin(), rows.end(), position), rows.end());
    }
    expected.next_position = std::min(expected.next_position, position);
  }

  void ReserveOne(KvSequence sequence, ExpectedSequence& expected) {
    const int32_t room = kMaxTokens - expected.next_position;
    const int32_t rows = Uniform(0, 3) == 0 ? Uniform(0, room) : std::min(room, 1);
    const int64_t before = cache_->num_used_pages();
    const absl::Status reserved = cache_->Reserve(sequence, rows);
    if (!reserved.ok()) {
      ASSERT_EQ(reserved.code(), absl::StatusCode::kResourceExhausted);
      ASSERT_EQ(cache_->num_used_pages(), before);
      ++num_refused_;
      return;
    }
    expected.reserved = rows;
    for (size_t c = 0; c < classes_.size(); ++c) {
      const auto length = static_cast<int32_t>(expected.rows[c].size());
      expected.blocks[c] = std::max(expected.blocks[c], BlocksOf(c, length + rows));
    }
  }

  // Positions go on in every class; routed classes skip some.
  void AppendOne(KvSequence sequence, ExpectedSequence& expected) {
    const int32_t count = Uniform(0, expected.reserved);
    for (size_t c = 0; c < classes_.size(); ++c) {
      std::vector<int32_t> positions;
      for (int32_t i = 0; i < count; ++i) {
        if (classes_[c].routed && Uniform(0, 1) == 0) {
          ++num_skipped_;
          continue;
        }
        positions.push_back(expected.next_position + i);
      }
      std::vector<int32_t> slots(positions.size());
      cache_->Append(sequence, static_cast<int32_t>(c), positions, slots);
      for (size_t i = 0; i < slots.size(); ++i) {
        ASSERT_EQ(slots[i], static_cast<int32_t>(expected.rows[c].size()));
        expected.rows[c].push_back(positions[i]);
      }
    }
    expected.next_position += count;
    expected.reserved -= count;
  }

  void CommitOne(KvSequence sequence, ExpectedSequence& expected) {
    const int64_t before = cache_->num_used_pages();
    cache_->Commit(sequence);
    expected.reserved = 0;
    for (size_t c = 0; c < classes_.size(); ++c) {
      expected.blocks[c] = BlocksOf(c, static_cast<int32_t>(expected.rows[c].size()));
    }
    num_surplus_ += before - cache_->num_used_pages();
  }

  std::mt19937_64 random_;
  kernels::ReferenceBackend backend_;
  std::vector<KvClassSpec> classes_;
  std::unique_ptr<KvCache> cache_;
  std::map<KvSequence, ExpectedSequence> expected_;
  int64_t num_refused_ = 0;
  int64_t num_skipped_ = 0;
  int64_t num_surplus_ = 0;
};

TEST(KvCachePropertyTest, NoPageIsLostOrOwnedTwiceUnderRandomOperations) {
  const char* setting = std::getenv("SLUICE_CACHE_OPERATIONS");
  const int64_t num_operations = setting != nullptr ? std::atoll(setting) : 1'000'000;
  constexpr uint64_t kSeed = 20240717;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  RandomOperations operations(kSeed);
  for (int64_t i = 0; i < num_operations; ++i) {
    operations.Run();
    operations.CheckCounts();
    if (i % 16 == 0) operations.CheckAll();
    ASSERT_FALSE(testing::Test::HasFailure()) << "operation " << i;
  }
  EXPECT_GT(operations.num_refused(), num_operations / 1000);
  EXPECT_GT(operations.num_skipped(), num_operations / 1000);
  EXPECT_GT(operations.num_surplus(), num_operations / 1000);
}

}  // namespace
}  // namespace sluice
