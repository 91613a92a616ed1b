// Fixed-size pages of one KV geometry: a free list and counts. Knows nothing of sequences.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace sluice {

class PagePool {
 public:
  explicit PagePool(int32_t num_pages);

  // The caller has checked num_free() (CHECK). Lowest-numbered free pages are not guaranteed.
  int32_t Take();
  void Return(int32_t page);

  int32_t num_pages() const { return static_cast<int32_t>(owned_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  bool IsOwned(int32_t page) const { return owned_[static_cast<size_t>(page)]; }
  // Internal error when the free list and the ownership marks disagree.
  absl::Status CheckIntegrity() const;

 private:
  std::vector<int32_t> free_;
  std::vector<bool> owned_;
};

}  // namespace sluice
