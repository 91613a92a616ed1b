#include "server/metrics/family_list.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <limits>

namespace sluice::server {
namespace {

prometheus::MetricType TypeOf(MetricKind kind) {
  switch (kind) {
    case MetricKind::kCounter:
      return prometheus::MetricType::Counter;
    case MetricKind::kGauge:
      return prometheus::MetricType::Gauge;
    case MetricKind::kHistogram:
      break;
  }
  return prometheus::MetricType::Histogram;
}

prometheus::ClientMetric WithLabels(const Labels& labels) {
  prometheus::ClientMetric metric;
  for (const auto& [name, value] : labels) metric.label.push_back({name, value});
  return metric;
}

}  // namespace

FamilyList::Entry& FamilyList::EntryOf(Metric metric) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [metric](const Entry& entry) { return entry.metric == metric; });
  if (found != entries_.end()) return *found;
  const MetricRow& row = RowOf(metric);
  Entry entry;
  entry.metric = metric;
  entry.family.name = std::string(row.name);
  entry.family.help = std::string(row.help);
  entry.family.type = TypeOf(row.kind);
  entries_.push_back(std::move(entry));
  return entries_.back();
}

void FamilyList::Add(Metric metric, double value, const Labels& labels) {
  Entry& entry = EntryOf(metric);
  prometheus::ClientMetric series = WithLabels(labels);
  if (entry.family.type == prometheus::MetricType::Counter) {
    series.counter.value = value;
  } else {
    series.gauge.value = value;
  }
  entry.family.metric.push_back(std::move(series));
  ++entry.series;
}

void FamilyList::Add(Metric metric, const Histogram& histogram, const Labels& labels) {
  if (histogram.bounds.empty() || histogram.counts.size() != histogram.bounds.size() + 1) return;
  Entry& entry = EntryOf(metric);
  prometheus::ClientMetric series = WithLabels(labels);
  uint64_t cumulative = 0;
  for (size_t i = 0; i < histogram.counts.size(); ++i) {
    cumulative += histogram.counts[i];
    const double bound =
        i < histogram.bounds.size() ? histogram.bounds[i] : std::numeric_limits<double>::infinity();
    series.histogram.bucket.push_back({cumulative, bound});
  }
  series.histogram.sample_count = cumulative;
  series.histogram.sample_sum = histogram.sum;
  entry.family.metric.push_back(std::move(series));
  entry.series += histogram.counts.size() + 2;  // buckets, sum, count
}

size_t FamilyList::num_series() const {
  size_t sum = 0;
  for (const Entry& entry : entries_) sum += entry.series;
  return sum;
}

size_t FamilyList::Shrink(size_t max_series, const Metric* spared) {
  const auto is_spared = [spared](const Entry& entry) {
    return spared != nullptr && entry.metric == *spared;
  };
  size_t total = 0;
  for (const Entry& entry : entries_) total += is_spared(entry) ? 0 : entry.series;
  size_t dropped = 0;
  while (total > max_series) {
    auto victim = entries_.end();
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      const int sacrifice = RowOf(entry->metric).sacrifice;
      if (sacrifice == 0 || is_spared(*entry)) continue;
      if (victim == entries_.end() || sacrifice > RowOf(victim->metric).sacrifice) victim = entry;
    }
    if (victim == entries_.end()) break;
    total -= victim->series;
    dropped += victim->series;
    entries_.erase(victim);
  }
  // What is left is per layer: cut the longest family, so that the bound holds for any depth.
  while (total > max_series) {
    Entry& longest =
        *std::max_element(entries_.begin(), entries_.end(),
                          [](const Entry& a, const Entry& b) { return a.series < b.series; });
    if (longest.family.metric.size() < 2) break;
    const size_t each = longest.series / longest.family.metric.size();
    longest.family.metric.pop_back();
    longest.series -= each;
    total -= each;
    dropped += each;
  }
  return dropped;
}

std::string FamilyList::Serialize() const {
  std::vector<prometheus::MetricFamily> families;
  families.reserve(entries_.size());
  for (const Entry& entry : entries_) families.push_back(entry.family);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace sluice::server
