#include "engine/sampling/candidate_set.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"

namespace sluice {
namespace {

bool Better(const Candidate& a, const Candidate& b) {
  return a.rank > b.rank || (a.rank == b.rank && a.token < b.token);
}

// Up to here a heap of the best is cheaper than a partition of all.
constexpr int32_t kLargestHeap = 512;
constexpr ptrdiff_t kSmallEnoughToSort = 64;

template <typename Iterator>
double SumOfWeights(Iterator first, Iterator last) {
  double sum = 0.0;
  for (; first != last; ++first) sum += first->weight;
  return sum;
}

}  // namespace

void CandidateSet::TakeAbove(std::span<const float> logits, double lowest) {
  candidates_.clear();
  constexpr auto kSmallest = static_cast<double>(std::numeric_limits<float>::lowest());
  const double bound = std::max(lowest, kSmallest);
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(static_cast<double>(logits[i]) >= bound)) continue;
    candidates_.push_back({0.0, logits[i], static_cast<int32_t>(i)});
  }
}

void CandidateSet::TakeTop(std::span<const float> logits, int32_t k) {
  const auto wanted = static_cast<size_t>(k);
  if (k > kLargestHeap) {
    TakeAbove(logits, -std::numeric_limits<double>::infinity());
    if (candidates_.size() > wanted) {
      const auto end = candidates_.begin() + k;
      std::nth_element(candidates_.begin(), end, candidates_.end(), Better);
      candidates_.resize(wanted);
    }
    std::sort(candidates_.begin(), candidates_.end(), Better);
    return;
  }
  // A heap whose top is the worst of the best. Tokens ascend, so an equal logit never replaces one.
  candidates_.clear();
  float worst = std::numeric_limits<float>::lowest();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (candidates_.size() == wanted ? logits[i] <= worst : logits[i] < worst) continue;
    if (candidates_.size() == wanted) {
      std::pop_heap(candidates_.begin(), candidates_.end(), Better);
      candidates_.pop_back();
    }
    candidates_.push_back({0.0, logits[i], static_cast<int32_t>(i)});
    std::push_heap(candidates_.begin(), candidates_.end(), Better);
    if (candidates_.size() == wanted) worst = candidates_.front().rank;
  }
  std::sort_heap(candidates_.begin(), candidates_.end(), Better);
}

void CandidateSet::Weigh(float max, float temperature) {
  for (Candidate& candidate : candidates_) {
    const double distance = static_cast<double>(candidate.rank) - static_cast<double>(max);
    candidate.weight = std::exp(distance / static_cast<double>(temperature));
  }
}

void CandidateSet::KeepMinRatio(double ratio) {
  std::erase_if(candidates_, [=](const Candidate& entry) { return entry.weight < ratio; });
}

// Quickselect by weight: the half in which the mass is reached is halved again, and only the last
// few are sorted.
void CandidateSet::KeepMass(double mass) {
  auto first = candidates_.begin();
  auto last = candidates_.end();
  double sum = 0.0;
  while (last - first > kSmallEnoughToSort) {
    const auto middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, Better);
    const double upper = SumOfWeights(first, middle);
    if (sum + upper >= mass) {
      last = middle;
    } else {
      sum += upper;
      first = middle;
    }
  }
  std::sort(first, last, Better);
  while (first != last && sum < mass) sum += (first++)->weight;
  if (first == candidates_.begin()) ++first;
  candidates_.erase(first, candidates_.end());
}

void CandidateSet::KeepTypical(double share) {
  const double total = TotalWeight();
  double entropy = 0.0;
  for (const Candidate& candidate : candidates_) {
    const double p = candidate.weight / total;
    if (p > 0.0) entropy -= p * std::log(p);
  }
  for (Candidate& candidate : candidates_) {
    const double surprise = -std::log(candidate.weight / total);
    candidate.rank = static_cast<float>(-std::abs(surprise - entropy));
  }
  KeepMass(share * total);
}

double CandidateSet::TotalWeight() const {
  return SumOfWeights(candidates_.begin(), candidates_.end());
}

int32_t CandidateSet::Draw(double uniform) const {
  SLUICE_CHECK(!candidates_.empty());
  const double point = uniform * TotalWeight();
  double sum = 0.0;
  const Candidate* chosen = nullptr;
  for (const Candidate& candidate : candidates_) {
    if (candidate.weight <= 0.0) continue;
    chosen = &candidate;
    sum += candidate.weight;
    if (sum > point) break;
  }
  SLUICE_CHECK(chosen != nullptr);
  return chosen->token;
}

}  // namespace sluice
