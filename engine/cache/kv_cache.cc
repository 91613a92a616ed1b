#include "engine/cache/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/check.h"

namespace sluice {
namespace {

size_t Index(KvSequence sequence) { return static_cast<size_t>(sequence); }

int32_t BlocksFor(int32_t tokens, int32_t page_tokens) {
  return (tokens + page_tokens - 1) / page_tokens;
}

}  // namespace

absl::StatusOr<KvSequence> KvCache::Open() {
  if (free_sequences_.empty()) return absl::ResourceExhaustedError("every KV sequence is taken");
  const int32_t sequence = free_sequences_.back();
  free_sequences_.pop_back();
  open_[static_cast<size_t>(sequence)] = true;
  return KvSequence{sequence};
}

absl::Status KvCache::Reserve(KvSequence sequence, int32_t rows) {
  const size_t s = CheckedIndex(sequence);
  SLUICE_CHECK(rows >= 0) << rows;
  for (Pool& pool : pools_) pool.wanted = 0;
  for (size_t c = 0; c < classes_.size(); ++c) {
    const Extent& extent = ExtentOf(s, c);
    if (rows > options_.max_tokens - extent.length) {
      return absl::InvalidArgumentError("more rows than a KV sequence can hold");
    }
    const int32_t blocks = BlocksFor(extent.length + rows, classes_[c].geometry.page_tokens);
    const int32_t missing = std::max(0, blocks - extent.num_blocks);
    pools_[states_[c].pool].wanted += missing * classes_[c].num_layers;
  }
  for (const Pool& pool : pools_) {
    if (pool.wanted > pool.pages.num_free()) return absl::ResourceExhaustedError("no KV pages");
  }
  for (size_t c = 0; c < classes_.size(); ++c) {
    const int32_t tokens = ExtentOf(s, c).length + rows;
    Grow(s, c, BlocksFor(tokens, classes_[c].geometry.page_tokens));
  }
  return absl::OkStatus();
}

void KvCache::Append(KvSequence sequence,
                     int32_t kv_class,
                     std::span<const int32_t> positions,
                     std::span<int32_t> slots) {
  const size_t s = CheckedIndex(sequence);
  const auto c = static_cast<size_t>(kv_class);
  Extent& extent = ExtentOf(s, c);
  const auto count = static_cast<int32_t>(positions.size());
  SLUICE_CHECK(slots.size() == positions.size());
  SLUICE_CHECK(count <= extent.num_blocks * classes_[c].geometry.page_tokens - extent.length)
      << count << " rows after " << extent.length << " in " << extent.num_blocks << " blocks";
  int32_t* stored = classes_[c].routed
                        ? states_[c].positions.data() + s * static_cast<size_t>(options_.max_tokens)
                        : nullptr;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t position = positions[static_cast<size_t>(i)];
    const int32_t slot = extent.length + i;
    if (stored == nullptr) {
      SLUICE_CHECK(position == slot) << "position " << position << " at slot " << slot;
    } else {
      const int32_t last = slot == 0 ? -1 : stored[slot - 1];
      SLUICE_CHECK(position > last) << "position " << position << " after " << last;
      stored[slot] = position;
    }
    slots[static_cast<size_t>(i)] = slot;
  }
  rows_of_class_[c] += count;
  extent.length += count;
  SetLongest(s, std::max(longest_[s], extent.length));
}

int32_t KvCache::LowerBound(KvSequence sequence, int32_t kv_class, int32_t position) const {
  const int32_t length = Length(sequence, kv_class);
  if (!classes_[static_cast<size_t>(kv_class)].routed) return std::clamp(position, 0, length);
  const auto stored = Positions(sequence, kv_class);
  return static_cast<int32_t>(std::lower_bound(stored.begin(), stored.end(), position) -
                              stored.begin());
}

void KvCache::Commit(KvSequence sequence) {
  const size_t s = CheckedIndex(sequence);
  for (size_t c = 0; c < classes_.size(); ++c) {
    Shrink(s, c, BlocksFor(ExtentOf(s, c).length, classes_[c].geometry.page_tokens));
  }
}

void KvCache::Truncate(KvSequence sequence, int32_t position) {
  const size_t s = CheckedIndex(sequence);
  for (size_t c = 0; c < classes_.size(); ++c) {
    CutTo(s, c, LowerBound(sequence, static_cast<int32_t>(c), position));
  }
  SetLongest(s, LongestExtent(s));
}

void KvCache::Free(KvSequence sequence) {
  const size_t s = CheckedIndex(sequence);
  for (size_t c = 0; c < classes_.size(); ++c) {
    CutTo(s, c, 0);
    Shrink(s, c, 0);
  }
  SetLongest(s, 0);
  open_[s] = false;
  free_sequences_.push_back(static_cast<int32_t>(sequence));
}

bool KvCache::CanEverFit(std::span<const int32_t> tokens) const {
  if (tokens.size() > static_cast<size_t>(options_.max_sequences)) return false;
  for (const int32_t rows : tokens) {
    if (rows > options_.max_tokens) return false;
  }
  for (size_t p = 0; p < pools_.size(); ++p) {
    int64_t pages = 0;
    for (size_t c = 0; c < classes_.size(); ++c) {
      if (states_[c].pool != p) continue;
      for (const int32_t rows : tokens) {
        pages +=
            int64_t{BlocksFor(rows, classes_[c].geometry.page_tokens)} * classes_[c].num_layers;
      }
    }
    if (pages > pools_[p].pages.num_pages()) return false;
  }
  return true;
}

int32_t KvCache::Length(KvSequence sequence, int32_t kv_class) const {
  return ExtentOf(CheckedIndex(sequence), static_cast<size_t>(kv_class)).length;
}

std::span<const int32_t> KvCache::Positions(KvSequence sequence, int32_t kv_class) const {
  const size_t s = CheckedIndex(sequence);
  const auto c = static_cast<size_t>(kv_class);
  if (!classes_[c].routed) return {};
  const auto room = static_cast<size_t>(options_.max_tokens);
  return std::span(states_[c].positions)
      .subspan(s * room, static_cast<size_t>(ExtentOf(s, c).length));
}

kernels::KvLayerView KvCache::LayerView(int32_t kv_class, int32_t layer_in_class) const {
  const auto c = static_cast<size_t>(kv_class);
  const ClassState& state = states_[c];
  const Pool& pool = pools_[state.pool];
  const int32_t num_layers = classes_[c].num_layers;
  SLUICE_CHECK(layer_in_class >= 0 && layer_in_class < num_layers) << layer_in_class;
  return {.geometry = pool.geometry,
          .pool = pool.memory.data(),
          .page_bytes = pool.page_bytes,
          .page_table = state.page_table.data() + layer_in_class,
          .sequence_stride = int64_t{state.max_blocks} * num_layers,
          .block_stride = num_layers};
}

int64_t KvCache::bytes() const {
  int64_t total = 0;
  for (const Pool& pool : pools_) total += pool.pages.num_pages() * pool.page_bytes;
  return total;
}

int64_t KvCache::num_pages() const {
  int64_t total = 0;
  for (const Pool& pool : pools_) total += pool.pages.num_pages();
  return total;
}

int64_t KvCache::num_used_pages() const {
  int64_t total = 0;
  for (const Pool& pool : pools_) total += pool.pages.num_pages() - pool.pages.num_free();
  return total;
}

int64_t KvCache::BytesSaved(int32_t kv_class) const {
  const auto c = static_cast<size_t>(kv_class);
  const Pool& pool = pools_[states_[c].pool];
  const int64_t rows = rows_of_longest_ - rows_of_class_[c];
  return rows * classes_[c].num_layers * pool.page_bytes / pool.geometry.page_tokens;
}

size_t KvCache::CheckedIndex(KvSequence sequence) const {
  SLUICE_CHECK(Index(sequence) < open_.size() && open_[Index(sequence)])
      << "KV sequence " << static_cast<int32_t>(sequence);
  return Index(sequence);
}

KvCache::Extent& KvCache::ExtentOf(size_t sequence, size_t kv_class) {
  SLUICE_CHECK(kv_class < classes_.size()) << kv_class;
  return extents_[sequence * classes_.size() + kv_class];
}

const KvCache::Extent& KvCache::ExtentOf(size_t sequence, size_t kv_class) const {
  SLUICE_CHECK(kv_class < classes_.size()) << kv_class;
  return extents_[sequence * classes_.size() + kv_class];
}

std::span<int32_t> KvCache::PagesOf(size_t sequence, size_t kv_class, int32_t block) {
  const auto layers = static_cast<size_t>(classes_[kv_class].num_layers);
  const auto max_blocks = static_cast<size_t>(states_[kv_class].max_blocks);
  return std::span(states_[kv_class].page_table)
      .subspan((sequence * max_blocks + static_cast<size_t>(block)) * layers, layers);
}

void KvCache::CutTo(size_t sequence, size_t kv_class, int32_t length) {
  Extent& extent = ExtentOf(sequence, kv_class);
  rows_of_class_[kv_class] -= extent.length - length;
  extent.length = length;
}

int32_t KvCache::LongestExtent(size_t sequence) const {
  int32_t longest = 0;
  for (size_t c = 0; c < classes_.size(); ++c) {
    longest = std::max(longest, ExtentOf(sequence, c).length);
  }
  return longest;
}

void KvCache::SetLongest(size_t sequence, int32_t length) {
  rows_of_longest_ += length - longest_[sequence];
  longest_[sequence] = length;
}

void KvCache::Grow(size_t sequence, size_t kv_class, int32_t num_blocks) {
  Extent& extent = ExtentOf(sequence, kv_class);
  PagePool& pages = pools_[states_[kv_class].pool].pages;
  for (; extent.num_blocks < num_blocks; ++extent.num_blocks) {
    for (int32_t& page : PagesOf(sequence, kv_class, extent.num_blocks)) page = pages.Take();
  }
}

void KvCache::Shrink(size_t sequence, size_t kv_class, int32_t num_blocks) {
  Extent& extent = ExtentOf(sequence, kv_class);
  Pool& pool = pools_[states_[kv_class].pool];
  while (extent.num_blocks > num_blocks) {
    --extent.num_blocks;
    for (int32_t& page : PagesOf(sequence, kv_class, extent.num_blocks)) {
      // All bits set is a NaN in f32, bf16 and f16.
      if (options_.poison_freed_pages) Fill(pool, page, 0xFF);
      pool.pages.Return(page);
      page = kNoPage;
    }
  }
}

void KvCache::Scrub(KvSequence sequence) {
  const size_t s = CheckedIndex(sequence);
  for (size_t c = 0; c < classes_.size(); ++c) {
    for (int32_t block = 0; block < ExtentOf(s, c).num_blocks; ++block) {
      for (const int32_t page : PagesOf(s, c, block)) Fill(pools_[states_[c].pool], page, 0);
    }
  }
}

void KvCache::Fill(const Pool& pool, int32_t page, int byte) {
  const auto bytes = static_cast<size_t>(pool.page_bytes);
  std::memset(static_cast<char*>(pool.memory.data()) + page * pool.page_bytes, byte, bytes);
}

}  // namespace sluice
