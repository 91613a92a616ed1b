#include "engine/cache/page_pool.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace sluice {

PagePool::PagePool(int32_t num_pages) : owned_(static_cast<size_t>(num_pages), false) {
  free_.reserve(owned_.size());
  for (int32_t page = num_pages - 1; page >= 0; --page) free_.push_back(page);
}

int32_t PagePool::Take() {
  SLUICE_CHECK(!free_.empty());
  const int32_t page = free_.back();
  free_.pop_back();
  owned_[static_cast<size_t>(page)] = true;
  return page;
}

void PagePool::Return(int32_t page) {
  SLUICE_CHECK(page >= 0 && page < num_pages() && IsOwned(page)) << "page " << page;
  owned_[static_cast<size_t>(page)] = false;
  free_.push_back(page);
}

absl::Status PagePool::CheckIntegrity() const {
  std::vector<bool> listed(owned_.size(), false);
  for (const int32_t page : free_) {
    if (page < 0 || page >= num_pages()) {
      return absl::InternalError(absl::StrCat("free page ", page, " is out of range"));
    }
    if (IsOwned(page)) return absl::InternalError(absl::StrCat("free page ", page, " is owned"));
    if (listed[static_cast<size_t>(page)]) {
      return absl::InternalError(absl::StrCat("page ", page, " is free twice"));
    }
    listed[static_cast<size_t>(page)] = true;
  }
  const auto num_owned = std::count(owned_.begin(), owned_.end(), true);
  if (static_cast<size_t>(num_owned) + free_.size() != owned_.size()) {
    return absl::InternalError(absl::StrCat("pages lost: ", num_owned, " owned and ", free_.size(),
                                            " free of ", owned_.size()));
  }
  return absl::OkStatus();
}

}  // namespace sluice
