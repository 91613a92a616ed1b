// How far the next-token distributions of two models are apart over a text. Numbers only; who ran
// the models is bench_quality's business.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice::server {

struct NextTokenDistance {
  int64_t positions = 0;
  // Kullback-Leibler divergence of the subject from the baseline, in nats.
  double mean_divergence = 0.0, p99_divergence = 0.0, largest_divergence = 0.0;
  double top_agreement = 0.0;  // share of positions with the same most probable token
  double subject_perplexity = 0.0, baseline_perplexity = 0.0;
};

class NextTokenComparison {
 public:
  // Logits of one position in both models, which `next` follows in the text. False, and nothing is
  // counted, when one is not finite.
  bool Add(std::span<const float> subject, std::span<const float> baseline, int32_t next);

  NextTokenDistance Distance() const;

 private:
  std::vector<double> divergences_;
  int64_t same_top_ = 0;
  double subject_loss_ = 0.0, baseline_loss_ = 0.0;  // sums of -log p(next)
};

}  // namespace sluice::server
