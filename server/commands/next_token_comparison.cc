#include "server/commands/next_token_comparison.h"

#include <algorithm>
#include <cmath>

namespace sluice::server {
namespace {

// log of the sum of e^logit.
double LogSum(std::span<const float> logits) {
  const double largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

}  // namespace

bool NextTokenComparison::Add(std::span<const float> subject,
                              std::span<const float> baseline,
                              int32_t next) {
  const double subject_sum = LogSum(subject);
  const double baseline_sum = LogSum(baseline);
  if (!std::isfinite(subject_sum) || !std::isfinite(baseline_sum)) return false;
  double divergence = 0.0;
  for (size_t i = 0; i < baseline.size(); ++i) {
    const double log_p = static_cast<double>(baseline[i]) - baseline_sum;
    const double p = std::exp(log_p);
    if (p == 0.0) continue;  // a masked token: 0 log 0 = 0
    divergence += p * (log_p - (static_cast<double>(subject[i]) - subject_sum));
  }
  divergences_.push_back(divergence);
  const auto top = [](std::span<const float> logits) {
    return std::max_element(logits.begin(), logits.end()) - logits.begin();
  };
  if (top(subject) == top(baseline)) ++same_top_;
  const auto at = static_cast<size_t>(next);
  subject_loss_ += subject_sum - static_cast<double>(subject[at]);
  baseline_loss_ += baseline_sum - static_cast<double>(baseline[at]);
  return true;
}

NextTokenDistance NextTokenComparison::Distance() const {
  NextTokenDistance out;
  if (divergences_.empty()) return out;
  std::vector<double> sorted = divergences_;
  std::sort(sorted.begin(), sorted.end());
  const auto count = static_cast<double>(sorted.size());
  double sum = 0.0;
  for (const double divergence : sorted) sum += divergence;
  out.positions = static_cast<int64_t>(sorted.size());
  out.mean_divergence = sum / count;
  // The smallest value that 99 % of the positions do not exceed.
  out.p99_divergence = sorted[static_cast<size_t>(std::ceil(0.99 * count)) - 1];
  out.largest_divergence = sorted.back();
  out.top_agreement = static_cast<double>(same_top_) / count;
  out.subject_perplexity = std::exp(subject_loss_ / count);
  out.baseline_perplexity = std::exp(baseline_loss_ / count);
  return out;
}

}  // namespace sluice::server
