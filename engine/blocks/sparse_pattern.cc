#include "engine/blocks/sparse_pattern.h"

#include <algorithm>

#include "kernels/check.h"

namespace sluice {
namespace {

// The finalizer of SplitMix64.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;

}  // namespace

std::array<int32_t, kMaxRandomBlocks> DrawBlocks(
    int64_t seed, int32_t head, int64_t block, int32_t count, int64_t candidates) {
  SLUICE_CHECK(count <= kMaxRandomBlocks && count <= candidates) << count << " of " << candidates;
  uint64_t state = Mix(static_cast<uint64_t>(seed) + kGolden);
  state = Mix(state ^ static_cast<uint64_t>(head)) + kGolden;
  state = Mix(state ^ static_cast<uint64_t>(block));
  std::array<int32_t, kMaxRandomBlocks> chosen{};
  for (int32_t i = 0; i < count; ++i) {
    const int64_t last = candidates - count + i;
    state += kGolden;
    const uint64_t bound = static_cast<uint64_t>(last) + 1;
    auto drawn = static_cast<int32_t>((Mix(state) >> 32) * bound >> 32);
    const auto end = chosen.begin() + i;
    if (std::find(chosen.begin(), end, drawn) != end) drawn = static_cast<int32_t>(last);
    *end = drawn;
  }
  std::sort(chosen.begin(), chosen.begin() + count);
  return chosen;
}

void SparsePattern::Fill(int32_t position,
                         int32_t length,
                         int32_t head,
                         std::span<kernels::KvSpan> out) const {
  const int64_t size = spec_.block;
  const bool causal = mask_ == MaskKind::kCausal;
  const int32_t limit = causal ? position + 1 : length;
  std::fill(out.begin(), out.end(), kernels::KvSpan());
  size_t next = 0;
  const auto add = [&](int64_t begin, int64_t end) {
    begin = std::min<int64_t>(begin * size, limit);
    end = std::min<int64_t>(end * size, limit);
    if (begin < end) out[next++] = {static_cast<int32_t>(begin), static_cast<int32_t>(end)};
  };
  const int64_t own = position / size;
  const int64_t blocks = (limit + size - 1) / size;
  const int64_t last = causal ? blocks : std::max<int64_t>(0, blocks - spec_.last_blocks);
  const bool global = spec_.global_queries && (own < spec_.first_blocks || own >= last);
  if (!causal && (length <= spec_.full_up_to || global)) return add(0, blocks);

  const int64_t first = spec_.first_blocks;
  int64_t near_begin = std::max(first, own - spec_.behind);
  const int64_t near_end = std::max(first, own + spec_.ahead + 1);
  // The last blocks may begin before the neighbourhood that reaches them.
  if (near_end >= last) near_begin = std::max(first, std::min(near_begin, last));
  const int64_t far_begin = std::max(near_end, last);
  add(0, first);
  add(near_begin, near_end);
  add(far_begin, blocks);
  // The blocks that are left, on both sides of the query's neighbourhood.
  const int64_t left = std::max<int64_t>(0, std::min(near_begin, blocks) - first);
  const int64_t right = std::max<int64_t>(0, std::min(far_begin, blocks) - near_end);
  const auto count = static_cast<int32_t>(std::min<int64_t>(spec_.random_blocks, left + right));
  if (count > 0) {
    const auto drawn = DrawBlocks(spec_.seed, head, own, count, left + right);
    for (int32_t i = 0; i < count; ++i) {
      const int64_t index = drawn[static_cast<size_t>(i)];
      const int64_t block = index < left ? first + index : near_end + index - left;
      add(block, block + 1);
    }
  }
  for (int32_t i = 0; i < spec_.first_repeats; ++i) add(0, 1);
}

}  // namespace sluice
