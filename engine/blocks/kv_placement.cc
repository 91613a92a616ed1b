#include "engine/blocks/kv_placement.h"

#include <algorithm>

#include "engine/blocks/forward_context.h"
#include "kernels/check.h"

namespace sluice {

KvPlacements::KvPlacements(std::vector<int32_t> windows, int32_t max_rows)
    : classes_(windows.size()) {
  const auto room = static_cast<size_t>(max_rows);
  for (size_t c = 0; c < windows.size(); ++c) {
    classes_[c].window = windows[c];
    for (auto* list : {&classes_[c].sequence, &classes_[c].slot, &classes_[c].begin,
                       &classes_[c].end, &classes_[c].position}) {
      list->resize(room);
    }
  }
}

void KvPlacements::Reset() {
  for (PerClass& kv : classes_) kv.placed = false;
}

const kernels::KvRows& KvPlacements::Place(int32_t kv_class,
                                           const Batch& batch,
                                           const kernels::RowSet& origin,
                                           KvCache& cache) {
  PerClass& kv = classes_[static_cast<size_t>(kv_class)];
  if (kv.placed) {
    SLUICE_CHECK(kv.rows.count == origin.count) << "KV class " << kv_class << " ran on other rows";
    return kv.rows;
  }
  const int32_t count = origin.count;
  SLUICE_CHECK(static_cast<size_t>(count) <= kv.slot.size());
  for (int32_t i = 0; i < count; ++i) {
    const auto row = static_cast<size_t>(origin[i]);
    kv.sequence[static_cast<size_t>(i)] = static_cast<int32_t>(batch.sequences[row]);
    kv.position[static_cast<size_t>(i)] = batch.positions[row];
  }
  for (int32_t first = 0; first < count;) {
    const int32_t sequence = kv.sequence[static_cast<size_t>(first)];
    int32_t last = first;
    while (last < count && kv.sequence[static_cast<size_t>(last)] == sequence) ++last;
    const auto begin = static_cast<size_t>(first);
    const auto length = static_cast<size_t>(last - first);
    cache.Append(KvSequence{sequence}, kv_class, std::span(kv.position).subspan(begin, length),
                 std::span(kv.slot).subspan(begin, length));
    first = last;
  }
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    const int32_t oldest = kv.position[i] - kv.window + 1;
    kv.begin[i] = kv.window > 0 && oldest > 0
                      ? cache.LowerBound(KvSequence{kv.sequence[i]}, kv_class, oldest)
                      : 0;
    kv.end[i] = kv.slot[i] + 1;
  }
  kv.rows = {kv.sequence.data(), kv.slot.data(), kv.begin.data(), kv.end.data(), count};
  kv.placed = true;
  return kv.rows;
}

}  // namespace sluice
