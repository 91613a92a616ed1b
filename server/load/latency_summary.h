// What a table and a plot show of many latencies.
#pragma once

#include <cstddef>
#include <vector>

namespace sluice::server {

// The value below which a share `q` of `sorted` (ascending, not empty) lies, between neighbours
// linearly: Hyndman and Fan 1996, definition 7, as in NumPy.
double Quantile(const std::vector<double>& sorted, double q);

struct LatencySummary {
  size_t count = 0;  // 0: the rest means nothing
  double mean = 0.0;
  double p50 = 0.0;
  double p90 = 0.0;
  double p99 = 0.0;
  double max = 0.0;
  std::vector<double> half_percents;  // the quantiles 0, 0.005, ..., 1
};
LatencySummary Summarize(std::vector<double> values);

}  // namespace sluice::server
