// Expert selection of the CPU backend.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"

namespace sluice::kernels::cpu {
namespace {

// NaN ranks below everything, so that a broken row still selects deterministically.
float Rankable(float key) {
  return std::isnan(key) ? -std::numeric_limits<float>::infinity() : key;
}

// What the choice of one row looks at.
struct Choice {
  const float* scores = nullptr;
  const float* bias = nullptr;   // may be null
  const float* taken = nullptr;  // [groups] 0: none of its experts; null: all
  int64_t group_size = 0;

  float Key(int64_t expert) const {
    return Rankable(bias == nullptr ? scores[expert] : scores[expert] + bias[expert]);
  }
  bool Offers(int64_t expert) const {
    return taken == nullptr || taken[expert / group_size] != 0.0f;
  }
};

// ranks[g] = score of group g.
void ScoreGroups(const Choice& choice, int32_t groups, GroupScore score, float* ranks) {
  for (int32_t g = 0; g < groups; ++g) {
    float first = -std::numeric_limits<float>::infinity();
    float second = first;
    for (int64_t e = g * choice.group_size; e < (g + 1) * choice.group_size; ++e) {
      const float key = choice.Key(e);
      second = std::max(second, std::min(first, key));
      first = std::max(first, key);
    }
    const bool two = score == GroupScore::kTopTwoSum && choice.group_size > 1;
    ranks[g] = two ? first + second : first;
  }
}

// taken[g] = 1 for the best `top` groups, else 0; ties go to the lower index.
void TakeGroups(const float* ranks, int32_t groups, int32_t top, float* taken) {
  for (int32_t g = 0; g < groups; ++g) {
    int32_t better = 0;
    for (int32_t other = 0; other < groups; ++other) {
      better += ranks[other] > ranks[g] || (ranks[other] == ranks[g] && other < g) ? 1 : 0;
    }
    taken[g] = better < top ? 1.0f : 0.0f;
  }
}

// Inserts experts in ascending index; an equal key stays behind, so ties go to the lower index.
// keys: [k] scratch.
void SelectTop(const Choice& choice, int64_t count, int32_t k, int32_t* chosen, float* keys) {
  int32_t filled = 0;
  for (int32_t expert = 0; expert < count; ++expert) {
    const float value = choice.Key(expert);
    if (filled == k && !(value > keys[k - 1])) continue;
    if (!choice.Offers(expert)) continue;
    int32_t at = filled < k ? filled++ : k - 1;
    for (; at > 0 && value > keys[at - 1]; --at) {
      chosen[at] = chosen[at - 1];
      keys[at] = keys[at - 1];
    }
    chosen[at] = expert;
    keys[at] = value;
  }
}

}  // namespace

void CpuBackend::RouteRow(const RouteArgs& args, int64_t row, float* scores) const {
  const int64_t count = args.logits.cols;
  std::memcpy(scores, args.logits.Row(row), static_cast<size_t>(count) * sizeof(float));
  if (args.score == ScoreFunction::kSoftmax) selection_.vector->softmax(scores, count);
  if (args.score == ScoreFunction::kSigmoid) selection_.vector->sigmoid(scores, count);
  int32_t* chosen = args.experts + row * args.top_k;
  float* weights = args.weights + row * args.top_k;
  Choice choice{scores, args.selection_bias, nullptr, count / args.num_groups};
  if (args.num_groups > 1) {
    float* ranks = scores + count;
    float* taken = ranks + args.num_groups;
    ScoreGroups(choice, args.num_groups, args.group_score, ranks);
    TakeGroups(ranks, args.num_groups, args.top_groups, taken);
    choice.taken = taken;
  }
  SelectTop(choice, count, args.top_k, chosen, /*keys=*/weights);
  for (int32_t j = 0; j < args.top_k; ++j) weights[j] = scores[chosen[j]];
  if (args.score == ScoreFunction::kSoftmaxOverTopK) {
    selection_.vector->softmax(weights, args.top_k);
  }
  float sum = 0.0f;
  for (int32_t j = 0; j < args.top_k; ++j) sum += weights[j];
  const float divisor = args.renormalize ? sum + args.renormalize_epsilon : 1.0f;
  for (int32_t j = 0; j < args.top_k; ++j) weights[j] = weights[j] / divisor * args.scale;
}

void CpuBackend::Route(const RouteArgs& args) {
  const int64_t count = args.logits.cols;
  SLUICE_CHECK(args.top_k >= 1 && args.top_k <= count) << args.top_k << " " << count;
  SLUICE_CHECK(args.num_groups >= 1 && count % args.num_groups == 0) << args.num_groups;
  SLUICE_CHECK(args.num_groups == 1 || args.top_k <= args.top_groups * (count / args.num_groups))
      << args.top_k;
  // Scores, then the groups' ranks and marks.
  const int64_t scratch = count + (args.num_groups > 1 ? 2 * args.num_groups : 0);
  For(args.rows, args.rows * count * 8, [&](int64_t row, int worker) {
    RouteRow(args, row, worker_[static_cast<size_t>(worker)].Get<float>(scratch));
  });
}

}  // namespace sluice::kernels::cpu
