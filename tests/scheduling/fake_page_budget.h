// A PageBudget that only counts: one page per `page_tokens` rows, surplus returned on Commit.
#pragma once

#include <map>

#include "engine/cache/page_budget.h"

namespace sluice {

class FakePageBudget final : public PageBudget {
 public:
  FakePageBudget(int32_t num_pages, int32_t page_tokens, int32_t max_sequences = 1000)
      : num_pages_(num_pages), page_tokens_(page_tokens), max_sequences_(max_sequences) {}

  absl::StatusOr<KvSequence> Open() override {
    if (static_cast<int32_t>(held_.size()) == max_sequences_) {
      return absl::ResourceExhaustedError("places");
    }
    const KvSequence sequence{next_++};
    held_[sequence] = {};
    return sequence;
  }

  absl::Status Reserve(KvSequence sequence, int32_t rows) override {
    Held& held = held_.at(sequence);
    const int32_t wanted = PagesFor(held.rows + rows);
    if (num_used() + wanted - held.pages > num_pages_ && wanted > held.pages) {
      return absl::ResourceExhaustedError("pages");
    }
    held.pages = std::max(held.pages, wanted);
    return absl::OkStatus();
  }

  void Free(KvSequence sequence) override { held_.erase(sequence); }
  using PageBudget::CanEverFit;
  bool CanEverFit(std::span<const int32_t> tokens) const override {
    if (tokens.size() > static_cast<size_t>(max_sequences_)) return false;
    int32_t pages = 0;
    for (const int32_t rows : tokens) pages += PagesFor(rows);
    return pages <= num_pages_;
  }

  // What a forward step does: stores rows and returns the surplus.
  void Store(KvSequence sequence, int32_t rows) {
    Held& held = held_.at(sequence);
    held.rows += rows;
    held.pages = PagesFor(held.rows);
  }

  int32_t num_used() const {
    int32_t used = 0;
    for (const auto& [sequence, held] : held_) used += held.pages;
    return used;
  }
  int32_t num_open() const { return static_cast<int32_t>(held_.size()); }

 private:
  struct Held {
    int32_t rows = 0;
    int32_t pages = 0;
  };
  int32_t PagesFor(int32_t rows) const { return (rows + page_tokens_ - 1) / page_tokens_; }

  int32_t num_pages_;
  int32_t page_tokens_;
  int32_t max_sequences_;
  int32_t next_ = 0;
  std::map<KvSequence, Held> held_;
};

}  // namespace sluice
