// The full consistency check of a KvCache: run by tests after every step and by the engine when
// idle.
#include <algorithm>
#include <functional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/cache/kv_cache.h"
#include "engine/status_macros.h"

namespace sluice {

absl::Status KvCache::CheckIntegrity() const {
  std::vector<std::vector<bool>> seen;
  for (const Pool& pool : pools_) {
    RETURN_IF_ERROR(pool.pages.CheckIntegrity());
    seen.emplace_back(static_cast<size_t>(pool.pages.num_pages()), false);
  }
  for (size_t s = 0; s < open_.size(); ++s) RETURN_IF_ERROR(CheckSequence(s, seen));
  for (size_t p = 0; p < pools_.size(); ++p) {
    const PagePool& pages = pools_[p].pages;
    const auto held = std::count(seen[p].begin(), seen[p].end(), true);
    if (held != pages.num_pages() - pages.num_free()) {
      return absl::InternalError(absl::StrCat("sequences hold ", held, " pages, the pool lent ",
                                              pages.num_pages() - pages.num_free()));
    }
  }
  RETURN_IF_ERROR(CheckSums());
  const auto num_open = static_cast<size_t>(std::count(open_.begin(), open_.end(), true));
  std::vector<bool> listed = open_;
  for (const int32_t s : free_sequences_) {
    if (listed[static_cast<size_t>(s)]) {
      return absl::InternalError(absl::StrCat("KV sequence ", s, " is free and taken"));
    }
    listed[static_cast<size_t>(s)] = true;
  }
  if (num_open + free_sequences_.size() != open_.size()) {
    return absl::InternalError("a KV sequence is lost");
  }
  return absl::OkStatus();
}

absl::Status KvCache::CheckSums() const {
  std::vector<int64_t> rows(classes_.size(), 0);
  int64_t rows_of_longest = 0;
  for (size_t s = 0; s < open_.size(); ++s) {
    for (size_t c = 0; c < classes_.size(); ++c) rows[c] += ExtentOf(s, c).length;
    rows_of_longest += LongestExtent(s);
  }
  const bool equal = rows == rows_of_class_ && rows_of_longest == rows_of_longest_;
  return equal ? absl::OkStatus() : absl::InternalError("the sums of KV rows are wrong");
}

absl::Status KvCache::CheckSequence(size_t sequence, std::vector<std::vector<bool>>& seen) const {
  for (size_t c = 0; c < classes_.size(); ++c) {
    const Extent& extent = ExtentOf(sequence, c);
    if (!open_[sequence] && (extent.length != 0 || extent.num_blocks != 0)) {
      return absl::InternalError(absl::StrCat("closed KV sequence ", sequence, " holds rows"));
    }
    RETURN_IF_ERROR(CheckExtent(sequence, c, seen[states_[c].pool]));
  }
  return absl::OkStatus();
}

absl::Status KvCache::CheckExtent(size_t sequence, size_t kv_class, std::vector<bool>& seen) const {
  const Extent& extent = ExtentOf(sequence, kv_class);
  const KvClassSpec& spec = classes_[kv_class];
  const auto broken = [&](std::string_view rule, int32_t value) {
    return absl::InternalError(absl::StrCat("KV sequence ", sequence, ", class ", spec.name, ": ",
                                            absl::string_view(rule.data(), rule.size()), " ",
                                            value));
  };
  if (extent.length > extent.num_blocks * spec.geometry.page_tokens) {
    return broken("its pages do not hold its rows:", extent.length);
  }
  const auto table = TableOf(sequence, kv_class);
  const auto num_held = static_cast<size_t>(extent.num_blocks * spec.num_layers);
  for (size_t i = 0; i < table.size(); ++i) {
    const int32_t page = table[i];
    if (i >= num_held) {
      if (page != kNoPage) return broken("stale page", page);
      continue;
    }
    const PagePool& pages = pools_[states_[kv_class].pool].pages;
    if (page < 0 || page >= pages.num_pages() || !pages.IsOwned(page)) {
      return broken("a page the pool has not lent:", page);
    }
    if (seen[static_cast<size_t>(page)]) {
      return broken("a page owned twice:", page);
    }
    seen[static_cast<size_t>(page)] = true;
  }
  if (!spec.routed) return absl::OkStatus();
  const auto* first =
      states_[kv_class].positions.data() + sequence * static_cast<size_t>(options_.max_tokens);
  const auto* last = first + extent.length;
  const auto* pair = std::adjacent_find(first, last, std::greater_equal<>());
  return pair == last ? absl::OkStatus() : broken("positions do not ascend after", *pair);
}

std::span<const int32_t> KvCache::TableOf(size_t sequence, size_t kv_class) const {
  const ClassState& state = states_[kv_class];
  const auto size =
      static_cast<size_t>(state.max_blocks) * static_cast<size_t>(classes_[kv_class].num_layers);
  return std::span(state.page_table).subspan(sequence * size, size);
}

}  // namespace sluice
