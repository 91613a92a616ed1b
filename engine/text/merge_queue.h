// The order of merges in one piece: lowest rank first, leftmost first within a rank. One bucket per
// rank, because long pieces repeat few ranks and push positions mostly in rising order, which makes
// most operations constant time; the worst case stays O(log n).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <queue>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace sluice {

class MergeQueue {
 public:
  struct Entry {
    int32_t rank = 0;
    uint32_t position = 0;
  };

  void Push(Entry entry);
  std::optional<Entry> Pop();

 private:
  struct Bucket {
    int32_t rank = 0;
    std::vector<uint32_t> rising;  // positions pushed in order, consumed from `head`
    size_t head = 0;
    std::vector<uint32_t> unordered;  // the others, a min-heap
    bool queued = false;

    uint32_t PopLowest();
    bool empty() const { return head == rising.size() && unordered.empty(); }
  };

  absl::flat_hash_map<int32_t, uint32_t> bucket_of_rank_;
  std::vector<Bucket> buckets_;
  // (rank, bucket) of every bucket that is not empty.
  std::priority_queue<std::pair<int32_t, uint32_t>,
                      std::vector<std::pair<int32_t, uint32_t>>,
                      std::greater<>>
      ranks_;
};

}  // namespace sluice
