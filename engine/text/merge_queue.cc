#include "engine/text/merge_queue.h"

#include <algorithm>
#include <utility>

namespace sluice {
uint32_t MergeQueue::Bucket::PopLowest() {
  const bool has_rising = head < rising.size();
  if (!unordered.empty() && (!has_rising || unordered.front() < rising[head])) {
    std::pop_heap(unordered.begin(), unordered.end(), std::greater<>());
    const uint32_t position = unordered.back();
    unordered.pop_back();
    return position;
  }
  const uint32_t position = rising[head++];
  if (head == rising.size()) {
    rising.clear();
    head = 0;
  }
  return position;
}

void MergeQueue::Push(Entry entry) {
  const auto [found, is_new] =
      bucket_of_rank_.try_emplace(entry.rank, static_cast<uint32_t>(buckets_.size()));
  if (is_new) buckets_.emplace_back().rank = entry.rank;
  Bucket& bucket = buckets_[found->second];
  if (bucket.rising.empty() || bucket.rising.back() <= entry.position) {
    bucket.rising.push_back(entry.position);
  } else {
    bucket.unordered.push_back(entry.position);
    std::push_heap(bucket.unordered.begin(), bucket.unordered.end(), std::greater<>());
  }
  if (bucket.queued) return;
  bucket.queued = true;
  ranks_.emplace(bucket.rank, found->second);
}

std::optional<MergeQueue::Entry> MergeQueue::Pop() {
  if (ranks_.empty()) return std::nullopt;
  const uint32_t index = ranks_.top().second;
  Bucket& bucket = buckets_[index];
  const Entry entry{bucket.rank, bucket.PopLowest()};
  if (bucket.empty()) {
    bucket.queued = false;
    ranks_.pop();
  }
  return entry;
}

}  // namespace sluice
