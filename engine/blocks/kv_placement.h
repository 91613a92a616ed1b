// Where the rows of this step live in each KV class: slots are assigned once per class and step, by
// the first attention that runs on it; every layer of the class sees the same rows and reuses them.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/cache/kv_cache.h"
#include "kernels/backend.h"

namespace sluice {

struct Batch;

class KvPlacements {
 public:
  // `windows`: per KV class, 0 for none. Room for `max_rows` rows in every class.
  KvPlacements(std::vector<int32_t> windows, int32_t max_rows);

  // Forgets the last step.
  void Reset();

  // The rows of `kv_class` for this step: on the first call, appends `origin`'s rows to the cache.
  const kernels::KvRows& Place(int32_t kv_class,
                               const Batch& batch,
                               const kernels::RowSet& origin,
                               KvCache& cache);

 private:
  struct PerClass {
    bool placed = false;
    int32_t window = 0;
    std::vector<int32_t> sequence, slot, begin, end, position;
    kernels::KvRows rows;
  };
  std::vector<PerClass> classes_;
};

}  // namespace sluice
