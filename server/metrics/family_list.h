// Collects metric families, counts their series and keeps them within a budget. Private to
// server/metrics.
#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <utility>
#include <vector>

#include "engine/metrics.h"
#include "server/metrics/metric_table.h"

namespace sluice::server {

using Labels = std::vector<std::pair<const char*, std::string>>;

class FamilyList {
 public:
  // One series of `metric`, a counter or gauge.
  void Add(Metric metric, double value, const Labels& labels = {});
  void Add(Metric metric, uint64_t value, const Labels& labels = {}) {
    Add(metric, static_cast<double>(value), labels);
  }
  // One histogram; nothing when it has no bounds.
  void Add(Metric metric, const Histogram& histogram, const Labels& labels = {});

  // Drops whole families, the most expendable first, until at most `max_series` are left. `spared`
  // is neither counted nor dropped. Returns the number of series dropped.
  size_t Shrink(size_t max_series, const Metric* spared = nullptr);

  size_t num_series() const;
  std::string Serialize() const;

 private:
  struct Entry {
    Metric metric;
    size_t series = 0;
    prometheus::MetricFamily family;
  };
  Entry& EntryOf(Metric metric);

  std::vector<Entry> entries_;
};

}  // namespace sluice::server
