#include "engine/model/depth_router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/blocks/scaled_rows.h"
#include "engine/status_macros.h"
#include "kernels/check.h"

namespace sluice {
namespace {

using kernels::AllRows;
using kernels::RowSet;
using kernels::TensorView;

constexpr float kAlways = -std::numeric_limits<float>::infinity();
constexpr float kNever = std::numeric_limits<float>::infinity();

// The p-th percentile (0..100) by linear interpolation between the stored ones.
float Quantile(const std::vector<float>& percentiles, double p) {
  const double place = p / 100.0 * static_cast<double>(percentiles.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, percentiles.size() - 1);
  const auto weight = static_cast<float>(place - static_cast<double>(below));
  return percentiles[below] + weight * (percentiles[above] - percentiles[below]);
}

}  // namespace

absl::StatusOr<DepthRouter> DepthRouter::Load(const DepthRouterSpec& spec,
                                              int64_t dim,
                                              WeightLoader& loader) {
  DepthRouter router;
  router.spec_ = spec;
  if (spec.hidden.has_value()) {
    ASSIGN_OR_RETURN(router.hidden_, loader.Matrix({*spec.hidden}, kernels::WeightFormat::kF32));
    ASSIGN_OR_RETURN(router.hidden_bias_, loader.Biases({*spec.hidden}));
    dim = spec.hidden->out;
  }
  const ProjectionSpec projection{.in = dim, .out = 1, .weight = spec.weight, .bias = spec.bias};
  ASSIGN_OR_RETURN(router.router_, loader.Matrix({projection}, kernels::WeightFormat::kF32));
  ASSIGN_OR_RETURN(router.bias_, loader.Biases({projection}));
  for (const ProjectionSpec& layer : spec.predictor) {
    ASSIGN_OR_RETURN(auto matrix, loader.Matrix({layer}, kernels::WeightFormat::kF32));
    ASSIGN_OR_RETURN(auto bias, loader.Biases({layer}));
    router.predictor_.push_back(std::move(matrix));
    router.predictor_bias_.push_back(std::move(bias));
  }
  return router;
}

// What a score must be above.
float DepthRouter::Threshold(const RowRouting& routing) const {
  if (routing.capacity >= 0.0f) {
    if (routing.capacity == 0.0f) return kNever;
    if (routing.capacity >= 1.0f) return kAlways;
    return Quantile(spec_.score_quantiles, 100.0 * (1.0 - static_cast<double>(routing.capacity)));
  }
  // sigmoid(logit) > t  <=>  logit > log(t / (1 - t)); t = 0 takes all, t = 1 none.
  if (spec_.threshold <= 0.0f) return kAlways;
  if (spec_.threshold >= 1.0f) return kNever;
  const float logit =
      spec_.threshold == 0.5f ? 0.0f : std::log(spec_.threshold / (1.0f - spec_.threshold));
  return spec_.threshold_inclusive ? std::nextafter(logit, kAlways) : logit;
}

DepthDecide DepthRouter::Decide(const RowRouting& routing, bool is_prompt) const {
  switch (routing.decide) {
    case RowRouting::Decide::kThreshold:
      return DepthDecide::kRouterThreshold;
    case RowRouting::Decide::kPredictor:
      return DepthDecide::kPredictorThreshold;
    case RowRouting::Decide::kTopKPrompt:
      if (is_prompt) return DepthDecide::kRouterTopK;
      break;
    case RowRouting::Decide::kModel:
    case RowRouting::Decide::kCapacity:  // of experts
      break;
  }
  return is_prompt ? spec_.prefill_decide : spec_.decide;
}

Selection DepthRouter::Select(const Rows& rows,
                              int32_t layer_instance,
                              const uint8_t* candidates,
                              ForwardContext& context) const {
  const int32_t count = rows.count();
  float* scores = RouterScores(rows, context);
  float* predicted = predictor_.empty() ? nullptr : PredictorScores(rows, context);
  if (ForwardObserver* observer = context.Watching(); observer != nullptr) {
    observer->OnValues("score", layer_instance, rows.origin, kernels::MatrixView(scores, count, 1));
    if (predicted != nullptr) {
      observer->OnValues("predicted", layer_instance, rows.origin,
                         kernels::MatrixView(predicted, count, 1));
    }
  }
  float* deciding = context.workspace.Take<float>(count);
  float* thresholds = context.workspace.Take<float>(count);
  bool any_top_k = false, any_mean = false;
  for (int32_t i = 0; i < count; ++i) {
    const auto row = static_cast<size_t>(rows.origin[i]);
    const RowRouting& routing = context.batch.routing[row];
    const DepthDecide decide = Decide(routing, context.batch.is_prompt[row] != 0);
    deciding[i] = decide == DepthDecide::kPredictorThreshold ? predicted[i] : scores[i];
    any_top_k |= decide == DepthDecide::kRouterTopK;
    any_mean |= decide == DepthDecide::kPromptMean;
    // NaN marks the rows that the top-k pass below decides.
    // A request's capacity of 0 or 1 is exact, whatever else the model does.
    const bool forced =
        spec_.force_first && context.batch.positions[row] == 0 && routing.capacity != 0.0f;
    thresholds[i] = decide == DepthDecide::kRouterTopK ? std::numeric_limits<float>::quiet_NaN()
                    : forced                           ? kAlways
                                                       : Threshold(routing);
    if (candidates != nullptr && candidates[row] == 0 && !std::isnan(thresholds[i]))
      thresholds[i] = kNever;
  }
  if (any_top_k) SelectTopKPrompt(rows, candidates, scores, thresholds, context);
  if (any_mean) AveragePrompts(rows, context.batch, deciding);

  int32_t* selected = context.workspace.Take<int32_t>(count);
  int32_t num_selected = 0;
  context.backend.SelectAbove({.scores = deciding,
                               .thresholds = thresholds,
                               .rows = count,
                               .selected = selected,
                               .count = &num_selected});
  float* selected_scores = context.workspace.Take<float>(count);
  for (int32_t i = 0; i < num_selected; ++i) selected_scores[i] = scores[selected[i]];
  const RowSet chosen{selected, num_selected, nullptr};
  if (spec_.softmax_over_selected)
    SoftmaxOverSelected(rows, chosen, context.batch, selected_scores);
  context.stats.AddFlops(rows.origin, FlopsPerRow());
  context.stats.AddWeightBytes(WeightBytes());
  return {chosen, selected_scores, ScaleGates(selected_scores, num_selected)};
}

float* DepthRouter::RouterScores(const Rows& rows, ForwardContext& context) const {
  const int32_t count = rows.count();
  const RowSet all = AllRows(count);
  const TensorView scores = context.workspace.TakeMatrix(count, 1);
  float* list = ListRoom(scores, context);
  Workspace::Scope scope(context.workspace);
  TensorView x = ScaledRows(rows.x, count, spec_.input_scale, context);
  if (hidden_.n > 0) {
    const TensorView read = x;
    x = context.workspace.TakeMatrix(count, hidden_.n);
    context.backend.Linear({.x = read,
                            .x_rows = all,
                            .weight = &hidden_,
                            .bias = hidden_bias_.data(),
                            .activation = Activation::kGelu,
                            .out = x,
                            .out_rows = all});
  }
  context.backend.Linear({.x = x,
                          .x_rows = all,
                          .weight = &router_,
                          .bias = bias_.data(),
                          .out = scores,
                          .out_rows = all});
  return ToList(scores, list, context);
}

// With a scale the scores become the gates themselves.
GateFunction DepthRouter::ScaleGates(float* scores, int32_t count) const {
  if (spec_.gate_scale == 1.0f) return spec_.gate;
  for (int32_t i = 0; i < count; ++i) {
    float gate = scores[i];
    if (spec_.gate == GateFunction::kSigmoid) gate = 1.0f / (1.0f + std::exp(-gate));
    if (spec_.gate == GateFunction::kOne) gate = 1.0f;
    if (spec_.gate == GateFunction::kTanh) gate = std::tanh(gate);
    scores[i] = spec_.gate_scale * gate;
  }
  return GateFunction::kIdentity;
}

float* DepthRouter::PredictorScores(const Rows& rows, ForwardContext& context) const {
  const RowSet all = AllRows(rows.count());
  TensorView x = rows.x;
  for (size_t i = 0; i < predictor_.size(); ++i) {
    const TensorView out = context.workspace.TakeMatrix(rows.count(), predictor_[i].n);
    context.backend.Linear(
        {.x = x,
         .x_rows = all,
         .weight = &predictor_[i],
         .bias = predictor_bias_[i].data(),
         .activation = i + 1 < predictor_.size() ? Activation::kSilu : Activation::kNone,
         .out = out,
         .out_rows = all});
    x = out;
  }
  return ToList(x, ListRoom(x, context), context);
}

DepthDecide DepthRouter::DecideOf(int32_t row, const Batch& batch) const {
  const auto r = static_cast<size_t>(row);
  return Decide(batch.routing[r], batch.is_prompt[r] != 0);
}

// The score of every row of a prompt becomes their mean: the router's logit of the mean row, for it
// is linear. The scheduler has put the whole prompt into this step.
void DepthRouter::AveragePrompts(const Rows& rows, const Batch& batch, float* scores) const {
  const auto averaged = [&](int32_t i) {
    return DecideOf(rows.origin[i], batch) == DepthDecide::kPromptMean;
  };
  for (int32_t first = 0; first < rows.count();) {
    const auto begin = static_cast<size_t>(rows.origin[first]);
    int32_t next = first;
    double total = 0.0;
    for (; next < rows.count() && averaged(next); ++next) {
      if (batch.sequences[static_cast<size_t>(rows.origin[next])] != batch.sequences[begin]) break;
      total += static_cast<double>(scores[next]);
    }
    if (next == first) {
      ++first;
      continue;
    }
    SLUICE_CHECK(batch.positions[begin] == 0) << "the mean of a part of a prompt";
    std::fill(scores + first, scores + next, static_cast<float>(total / (next - first)));
    first = next;
  }
}

// `capacity`: what the request asks for, below 0 for the model's own.
int32_t DepthRouter::NumTaken(float capacity, int32_t rows) const {
  if (capacity < 0.0f && spec_.capacity_rows > 0) return std::min(rows, spec_.capacity_rows);
  const double share = capacity >= 0.0f ? static_cast<double>(capacity) : spec_.capacity;
  if (share <= 0.0) return 0;
  return std::min(rows, std::max(spec_.min_rows, static_cast<int32_t>(share * rows)));
}

// The largest scores of each request's prompt, of the candidates if there are fewer; ties by
// position. The scheduler has put the whole prompt into this step.
void DepthRouter::SelectTopKPrompt(const Rows& rows,
                                   const uint8_t* candidates,
                                   const float* scores,
                                   float* thresholds,
                                   ForwardContext& context) const {
  int32_t* order = context.workspace.Take<int32_t>(rows.count());
  for (int32_t first = 0; first < rows.count();) {
    const KvSequence sequence = context.batch.sequences[static_cast<size_t>(rows.origin[first])];
    int32_t count = 0;
    int32_t first_asked = 0, asked_rows = 0;
    int32_t next = first;
    for (; next < rows.count(); ++next) {
      if (context.batch.sequences[static_cast<size_t>(rows.origin[next])] != sequence) break;
      if (!std::isnan(thresholds[next])) continue;
      if (asked_rows++ == 0) first_asked = next;
      thresholds[next] = kNever;
      if (candidates == nullptr || candidates[static_cast<size_t>(rows.origin[next])] != 0)
        order[count++] = next;
    }
    first = next;
    if (count == 0) continue;
    const auto begin = static_cast<size_t>(rows.origin[first_asked]);
    SLUICE_CHECK(context.batch.positions[begin] == 0) << "top-k over a part of a prompt";
    const float capacity = context.batch.routing[begin].capacity;
    const int32_t k = std::min(count, NumTaken(capacity, asked_rows));
    const auto rank = [scores](int32_t i) { return std::isnan(scores[i]) ? kAlways : scores[i]; };
    std::sort(order, order + count, [&](int32_t a, int32_t b) {
      return rank(a) > rank(b) || (rank(a) == rank(b) && a < b);
    });
    // astramind-ai/Mixture-of-depths MoD.py keeps w > the k-th value, but for k = 1 the largest.
    const bool strict = spec_.strict_top_k && k > 1 && capacity < 1.0f;
    for (int32_t i = 0; i < count; ++i) {
      const bool taken = i < k && (!strict || scores[order[i]] > scores[order[k - 1]]);
      thresholds[order[i]] = taken ? kAlways : kNever;
    }
  }
}

// kyegomez/Mixture-of-Depths main.py: the weights are the softmax of the selected logits over the
// selected rows of the sequence. A row that was not part of a top-k is alone with itself.
void DepthRouter::SoftmaxOverSelected(const Rows& rows,
                                      const RowSet& selected,
                                      const Batch& batch,
                                      float* scores) const {
  const auto sequence = [&](int32_t i) {
    return batch.sequences[static_cast<size_t>(rows.origin[selected[i]])];
  };
  for (int32_t first = 0; first < selected.count;) {
    int32_t next = first;
    float largest = kAlways;
    for (; next < selected.count && sequence(next) == sequence(first); ++next) {
      if (DecideOf(rows.origin[selected[next]], batch) != DepthDecide::kRouterTopK) break;
      largest = std::max(largest, scores[next]);
    }
    if (next == first) {
      scores[first++] = 1.0f;
      continue;
    }
    double total = 0.0;
    for (int32_t i = first; i < next; ++i)
      total += std::exp(static_cast<double>(scores[i] - largest));
    for (int32_t i = first; i < next; ++i) {
      scores[i] = static_cast<float>(std::exp(static_cast<double>(scores[i] - largest)) / total);
    }
    first = next;
  }
}

int64_t DepthRouter::WorkspaceBytes(int32_t max_rows) const {
  int64_t bytes = 8 * Workspace::BytesFor(max_rows);
  for (const auto& layer : predictor_) bytes += Workspace::BytesFor(max_rows * layer.n);
  bytes += Workspace::BytesFor(max_rows * hidden_.n);
  if (spec_.input_scale != 1.0f)
    bytes += Workspace::BytesFor(max_rows * (hidden_.n > 0 ? hidden_.k : router_.k));
  return bytes;
}

double DepthRouter::FlopsPerRow() const {
  double flops = 2.0 * static_cast<double>(router_.k + hidden_.n * hidden_.k);
  for (const auto& layer : predictor_) flops += 2.0 * static_cast<double>(layer.n * layer.k);
  return flops;
}

int64_t DepthRouter::WeightBytes() const {
  int64_t bytes = router_.bytes() + hidden_.bytes();
  for (const auto& layer : predictor_) bytes += layer.bytes();
  return bytes;
}

}  // namespace sluice
