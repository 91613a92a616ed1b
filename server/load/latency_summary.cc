#include "server/load/latency_summary.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace sluice::server {

double Quantile(const std::vector<double>& sorted, double q) {
  const double place = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

LatencySummary Summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  std::vector<double> half_percents;
  for (int i = 0; i <= 200; ++i) half_percents.push_back(Quantile(values, i / 200.0));
  return {.count = values.size(),
          .mean = std::accumulate(values.begin(), values.end(), 0.0) /
                  static_cast<double>(values.size()),
          .p50 = Quantile(values, 0.5),
          .p90 = Quantile(values, 0.9),
          .p99 = Quantile(values, 0.99),
          .max = values.back(),
          .half_percents = std::move(half_percents)};
}

}  // namespace sluice::server
