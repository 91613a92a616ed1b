#include "engine/blocks/kv_placement.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/blocks/forward_context.h"
#include "kernels/check.h"

namespace sluice {

KvPlacements::KvPlacements(std::vector<KvRule> rules, int32_t max_rows) : classes_(rules.size()) {
  const auto room = static_cast<size_t>(max_rows);
  for (auto* list : {&onlookers_.sequence, &onlookers_.zero, &onlookers_.end}) list->resize(room);
  for (size_t c = 0; c < rules.size(); ++c) {
    classes_[c].rule = rules[c];
    if (rules[c].zero_rows) classes_[c].sinks.resize(room);
    for (auto* list : {&classes_[c].sequence, &classes_[c].slot, &classes_[c].begin,
                       &classes_[c].end, &classes_[c].position}) {
      list->resize(room);
    }
  }
}

const kernels::KvRows& KvPlacements::Look(int32_t kv_class,
                                          const Batch& batch,
                                          const kernels::RowSet& origin,
                                          const KvCache& cache) {
  SLUICE_CHECK(static_cast<size_t>(origin.count) <= onlookers_.end.size());
  for (int32_t i = 0; i < origin.count; ++i) {
    const KvSequence sequence = batch.sequences[static_cast<size_t>(origin[i])];
    onlookers_.sequence[static_cast<size_t>(i)] = static_cast<int32_t>(sequence);
    onlookers_.end[static_cast<size_t>(i)] = cache.Length(sequence, kv_class);
  }
  onlookers_.rows = {onlookers_.sequence.data(), onlookers_.zero.data(), onlookers_.zero.data(),
                     onlookers_.end.data(), origin.count};
  return onlookers_.rows;
}

void KvPlacements::Reset() {
  for (PerClass& kv : classes_) kv.placed = false;
}

// The slots [begin, end) that a row sees, and the weight of the zero rows between them: n keys of
// zeros are n logits of 0 without a value, together one sink of log n.
void KvPlacements::SetVisible(PerClass& kv, size_t row, const KvCache& cache, int32_t kv_class) {
  const int32_t window = kv.rule.window;
  const int32_t place = kv.rule.compact ? kv.slot[row] : kv.position[row];
  const int32_t oldest = window > 0 ? std::max(0, place - window + 1) : 0;
  kv.begin[row] = oldest == 0 || kv.rule.compact
                      ? oldest
                      : cache.LowerBound(KvSequence{kv.sequence[row]}, kv_class, oldest);
  kv.end[row] =
      kv.rule.full ? cache.Length(KvSequence{kv.sequence[row]}, kv_class) : kv.slot[row] + 1;
  if (!kv.rule.zero_rows) return;
  const int32_t skipped = place - oldest + 1 - (kv.end[row] - kv.begin[row]);
  kv.sinks[row] = skipped > 0 ? static_cast<float>(std::log(static_cast<double>(skipped)))
                              : -std::numeric_limits<float>::infinity();
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
    SLUICE_CHECK(!kv.rule.full || kv.slot[begin] == 0) << "a part of a sequence";
    first = last;
  }
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) SetVisible(kv, i, cache, kv_class);
  kv.rows = {kv.sequence.data(), kv.slot.data(), kv.begin.data(), kv.end.data(), count};
  kv.placed = true;
  return kv.rows;
}

void KvPlacements::ToSlots(int32_t kv_class,
                           KvSequence sequence,
                           int32_t end,
                           std::span<kernels::KvSpan> spans,
                           const KvCache& cache) const {
  const PerClass& kv = classes_[static_cast<size_t>(kv_class)];
  const auto slot = [&](int32_t position) {
    return kv.rule.compact ? position : cache.LowerBound(sequence, kv_class, position);
  };
  for (kernels::KvSpan& span : spans) {
    if (span.begin >= span.end) continue;
    span.end = std::min(slot(span.end), end);
    span.begin = std::min(slot(span.begin), span.end);
  }
}

const int32_t* KvPlacements::Positions(int32_t kv_class) const {
  const PerClass& kv = classes_[static_cast<size_t>(kv_class)];
  return kv.rule.compact ? kv.slot.data() : nullptr;
}

const float* KvPlacements::Sinks(int32_t kv_class) const {
  const PerClass& kv = classes_[static_cast<size_t>(kv_class)];
  return kv.rule.zero_rows ? kv.sinks.data() : nullptr;
}

}  // namespace sluice
