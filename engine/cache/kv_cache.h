// The paged KV cache with classes. A KV class is a set of KV layers that see the same rows (same
// schedule, same window); lengths and block tables are per (sequence, class), because rows that
// skip a routed layer store nothing there. Pages for the worst case are taken before a step
// (Reserve) and the surplus is returned after it (Commit), so Append in the forward pass cannot
// fail. The absolute position is stored with each row. Engine thread only. No knowledge of layers'
// arithmetic; the layout inside a page belongs to the backend. Page tables are host memory, which
// is also what the CPU backends read; nothing is allocated after Create.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/cache/page_budget.h"
#include "engine/cache/page_pool.h"
#include "kernels/backend.h"

namespace sluice {

struct KvClassSpec {
  std::string name;        // "all", or the routed layer's label
  int32_t num_layers = 0;  // KV layers of the class; each stores its own pages
  kernels::KvGeometry geometry;
  bool routed = false;  // rows may be missing: positions are kept per slot
};

// Memory that a cache of this shape needs per token when no row is skipped.
int64_t KvBytesPerToken(const kernels::Backend& backend, const std::vector<KvClassSpec>& classes);

class KvCache final : public PageBudget {
 public:
  struct Options {
    int64_t memory_bytes = 0;
    int32_t max_sequences = 0;
    int32_t max_tokens = 0;  // per sequence
    // Fills never used and returned pages with NaN bits, so that a read of a stale slot shows
    // (tests).
    bool poison_freed_pages = false;
  };
  // InvalidArgument when memory is too small for one sequence of one page; ResourceExhausted when
  // it cannot be allocated. All memory is taken here.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(kernels::Backend& backend,
                                                         std::vector<KvClassSpec> classes,
                                                         const Options& options);

  absl::StatusOr<KvSequence> Open() override;
  // InvalidArgument, with nothing taken, when a class would outgrow max_tokens.
  absl::Status Reserve(KvSequence sequence, int32_t rows) override;
  void Free(KvSequence sequence) override;
  using PageBudget::CanEverFit;
  bool CanEverFit(std::span<const int32_t> tokens) const override;

  // Appends one row per position (ascending, above all stored ones) to a class; writes the slot of
  // each to `slots`. Reserve has made room (CHECK).
  void Append(KvSequence sequence,
              int32_t kv_class,
              std::span<const int32_t> positions,
              std::span<int32_t> slots);
  // The first slot of the class whose position is >= `position` (windows).
  int32_t LowerBound(KvSequence sequence, int32_t kv_class, int32_t position) const;
  // Returns the pages that hold no row.
  void Commit(KvSequence sequence);
  // Drops every row with a position >= `position` in every class; pages stay until Commit.
  void Truncate(KvSequence sequence, int32_t position);

  // Zeroes every page of the sequence: one whose values are not finite leaves nothing behind.
  // Before Free.
  void Scrub(KvSequence sequence);

  int32_t Length(KvSequence sequence, int32_t kv_class) const;
  // Device view of one KV layer; KvRows::sequence holds KvSequence numbers.
  kernels::KvLayerView LayerView(int32_t kv_class, int32_t layer_in_class) const;

  const std::vector<KvClassSpec>& classes() const { return classes_; }
  int64_t num_pages() const;
  int64_t bytes() const;  // of all pages
  int64_t num_used_pages() const;
  // Sum over sequences of (rows of the longest class - rows of this class) x bytes per row: what
  // skipping saved.
  int64_t BytesSaved(int32_t kv_class) const;
  // The positions of the stored rows, slot by slot; empty for a class that is not routed (slot ==
  // position).
  std::span<const int32_t> Positions(KvSequence sequence, int32_t kv_class) const;

  // Internal error naming the broken rule: a page owned twice, a page lost, a length beyond its
  // pages.
  absl::Status CheckIntegrity() const;

 private:
  struct Pool {
    kernels::KvGeometry geometry;
    int64_t page_bytes = 0;
    PagePool pages;
    kernels::Buffer memory;
    int32_t wanted = 0;  // scratch of Reserve
  };
  // The state of one (sequence, class).
  struct Extent {
    int32_t length = 0;
    int32_t num_blocks = 0;  // held; each is num_layers pages
  };
  struct ClassState {
    size_t pool = 0;
    int32_t max_blocks = 0;
    std::vector<int32_t>
        page_table;  // [max_sequences][max_blocks][num_layers], kNoPage where absent
    std::vector<int32_t> positions;  // [max_sequences][max_tokens], routed classes only
  };
  static constexpr int32_t kNoPage = -1;

  KvCache(std::vector<KvClassSpec> classes, const Options& options);

  absl::Status CreatePools(kernels::Backend& backend);
  void CreateTables();
  size_t CheckedIndex(KvSequence sequence) const;
  Extent& ExtentOf(size_t sequence, size_t kv_class);
  const Extent& ExtentOf(size_t sequence, size_t kv_class) const;
  std::span<int32_t> PagesOf(size_t sequence, size_t kv_class, int32_t block);
  std::span<const int32_t> TableOf(size_t sequence, size_t kv_class) const;
  void CutTo(size_t sequence, size_t kv_class, int32_t length);
  int32_t LongestExtent(size_t sequence) const;
  void SetLongest(size_t sequence, int32_t length);
  void Grow(size_t sequence, size_t kv_class, int32_t num_blocks);
  void Shrink(size_t sequence, size_t kv_class, int32_t num_blocks);
  static void Fill(const Pool& pool, int32_t page, int byte);
  absl::Status CheckSums() const;
  absl::Status CheckSequence(size_t sequence, std::vector<std::vector<bool>>& seen) const;
  absl::Status CheckExtent(size_t sequence, size_t kv_class, std::vector<bool>& seen) const;

  std::vector<KvClassSpec> classes_;
  Options options_;
  std::vector<Pool> pools_;
  std::vector<ClassState> states_;
  std::vector<Extent> extents_;  // [max_sequences][classes]
  // Sums for BytesSaved, which is asked after every step.
  std::vector<int64_t> rows_of_class_;
  std::vector<int32_t> longest_;  // per sequence, over its classes
  int64_t rows_of_longest_ = 0;
  std::vector<bool> open_;
  std::vector<int32_t> free_sequences_;
};

}  // namespace sluice
