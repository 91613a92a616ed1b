// Expert selection of the CPU backend.
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

// Inserts experts in ascending index; an equal key stays behind, so ties go to the lower index.
void SelectTop(const float* scores, const float* bias, int64_t count, int32_t k, int32_t* chosen) {
  const auto key = [&](int64_t expert) {
    return Rankable(bias == nullptr ? scores[expert] : scores[expert] + bias[expert]);
  };
  int32_t filled = 0;
  for (int32_t expert = 0; expert < count; ++expert) {
    const float value = key(expert);
    if (filled == k && !(value > key(chosen[k - 1]))) continue;
    int32_t at = filled < k ? filled++ : k - 1;
    for (; at > 0 && value > key(chosen[at - 1]); --at) chosen[at] = chosen[at - 1];
    chosen[at] = expert;
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
  SelectTop(scores, args.selection_bias, count, args.top_k, chosen);
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
  For(args.rows, args.rows * count * 8, [&](int64_t row, int worker) {
    RouteRow(args, row, worker_[static_cast<size_t>(worker)].Get<float>(count));
  });
}

}  // namespace sluice::kernels::cpu
