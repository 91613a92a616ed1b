// Where the rows of this step live in each KV class: slots are assigned once per class and step, by
// the first attention that runs on it; every layer of the class sees the same rows and reuses them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/cache/kv_cache.h"
#include "kernels/backend.h"

namespace sluice {

struct Batch;

// What the rows of a KV class see of it.
struct KvRule {
  int32_t window = 0;  // 0: everything
  bool full = false;   // rows behind it too; the whole sequence stands in one step
  // Positions count the rows of the class: the rotary position of a row is its slot
  // (models.md 1.2).
  bool compact = false;
  // A position that the class skipped is seen as a zero key and a zero value.
  bool zero_rows = false;
  bool operator==(const KvRule&) const = default;
};

class KvPlacements {
 public:
  // `rules`: per KV class. Room for `max_rows` rows in every class.
  KvPlacements(std::vector<KvRule> rules, int32_t max_rows);

  // Forgets the last step.
  void Reset();

  // The rows of `kv_class` for this step: on the first call, appends `origin`'s rows to the cache.
  const kernels::KvRows& Place(int32_t kv_class,
                               const Batch& batch,
                               const kernels::RowSet& origin,
                               KvCache& cache);
  // Rows that see everything in `kv_class` and store nothing there: a decoder's, of its encoder's.
  const kernels::KvRows& Look(int32_t kv_class,
                              const Batch& batch,
                              const kernels::RowSet& origin,
                              const KvCache& cache);
  // Of the placed rows of a class: their rotary positions, null for those of the batch, and what
  // AttentionArgs::row_sinks takes.
  const int32_t* Positions(int32_t kv_class) const;
  const float* Sinks(int32_t kv_class) const;
  // Turns spans of positions into those of the slots of `sequence` that are below `end`.
  void ToSlots(int32_t kv_class,
               KvSequence sequence,
               int32_t end,
               std::span<kernels::KvSpan> spans,
               const KvCache& cache) const;

 private:
  struct PerClass {
    bool placed = false;
    KvRule rule;
    std::vector<int32_t> sequence, slot, begin, end, position;
    std::vector<float> sinks;  // where skipped rows are seen as zeros
    kernels::KvRows rows;
  };
  struct Onlookers {
    std::vector<int32_t> sequence, zero, end;
    kernels::KvRows rows;
  };
  static void SetVisible(PerClass& kv, size_t row, const KvCache& cache, int32_t kv_class);

  std::vector<PerClass> classes_;
  Onlookers onlookers_;  // of the last Look
};

}  // namespace sluice
