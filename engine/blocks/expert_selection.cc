#include "engine/blocks/expert_selection.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"

namespace sluice {
namespace {

// The choices of all rows, with the facts that decide about them.
class Choices {
 public:
  Choices(const RouterSpec& spec, const Routing& routing, const Rows& rows, ForwardContext& context)
      : spec_(spec), routing_(routing), rows_(rows), context_(context) {}

  int32_t Select() {
    const bool by_row = spec_.pick == ExpertPick::kRowTopK;
    for (int32_t i = 0; i < rows_.count(); ++i) {
      if (by_row) {
        KeepFirst(i, RoutingOf(i).experts_per_token);
      } else if (!TakenByExperts(i)) {
        KeepAboveThresholds(i);
      }
      KeepHeavy(i, RoutingOf(i).expert_threshold);
    }
    int32_t dropped = 0;
    for (int32_t first = 0; first < rows_.count();) {
      const bool prompt = by_row ? Capped(first) : TakenByExperts(first);
      const int32_t last = prompt ? EndOfPrompt(first) : first + 1;
      if (prompt && by_row) dropped += DropBeyondCapacity(first, last);
      if (prompt && !by_row) KeepBestRows(first, last);
      first = last;
    }
    return dropped;
  }

 private:
  size_t Origin(int32_t row) const { return static_cast<size_t>(rows_.origin[row]); }
  const RowRouting& RoutingOf(int32_t row) const { return context_.batch.routing[Origin(row)]; }
  bool IsPrompt(int32_t row) const { return context_.batch.is_prompt[Origin(row)] != 0; }
  int32_t* Experts(int32_t row) const { return routing_.experts + row * routing_.top_k; }
  float* Weights(int32_t row) const { return routing_.weights + row * routing_.top_k; }

  void Drop(int32_t row, int32_t choice) const {
    Experts(row)[choice] = spec_.num_experts;  // null expert: no work
    Weights(row)[choice] = 0.0f;
  }

  // Rows whose experts choose among the rows of the prompt.
  bool TakenByExperts(int32_t row) const {
    if (!IsPrompt(row)) return false;
    switch (RoutingOf(row).decide) {
      case RowRouting::Decide::kThreshold:
        return false;
      case RowRouting::Decide::kTopKPrompt:
        return spec_.capacity.has_value();
      case RowRouting::Decide::kModel:
      case RowRouting::Decide::kPredictor:
      case RowRouting::Decide::kCapacity:
        break;
    }
    return spec_.pick == ExpertPick::kExpertTopK;
  }
  bool Capped(int32_t row) const {
    return spec_.capacity.has_value() && IsPrompt(row) &&
           RoutingOf(row).decide == RowRouting::Decide::kCapacity;
  }

  // The rows of the prompt that starts at `first`. The scheduler has put all of it into this step.
  int32_t EndOfPrompt(int32_t first) const {
    SLUICE_CHECK(context_.batch.positions[Origin(first)] == 0) << "experts of a part of a prompt";
    const KvSequence sequence = context_.batch.sequences[Origin(first)];
    int32_t last = first;
    while (last < rows_.count() && IsPrompt(last) &&
           context_.batch.sequences[Origin(last)] == sequence)
      ++last;
    return last;
  }

  // What is left of a row sums to the scale again, where the whole did.
  void Renormalize(int32_t row) const {
    float kept = 0.0f;
    for (int32_t j = 0; j < routing_.top_k; ++j) kept += Weights(row)[j];
    if (!(kept > 0.0f)) return;
    for (int32_t j = 0; j < routing_.top_k; ++j) Weights(row)[j] *= spec_.scale / kept;
  }
  bool sums_to_scale() const {
    return spec_.renormalize || spec_.score == ScoreFunction::kSoftmaxOverTopK;
  }

  void KeepFirst(int32_t row, int32_t limit) const {
    if (limit <= 0 || limit >= routing_.top_k) return;
    for (int32_t j = limit; j < routing_.top_k; ++j) Drop(row, j);
    if (sums_to_scale()) Renormalize(row);
  }

  void KeepHeavy(int32_t row, float least) const {
    if (least <= 0.0f) return;
    bool any = false;
    for (int32_t j = 0; j < routing_.top_k; ++j) {
      if (Weights(row)[j] >= least * std::abs(spec_.scale)) continue;
      Drop(row, j);
      any = true;
    }
    if (any && sums_to_scale()) Renormalize(row);
  }

  void KeepAboveThresholds(int32_t row) const {
    SLUICE_CHECK(!spec_.thresholds.empty()) << "a row without a rule that gives it experts";
    for (int32_t j = 0; j < routing_.top_k; ++j) {
      const auto expert = static_cast<size_t>(Experts(row)[j]);
      if (!(Weights(row)[j] > spec_.thresholds[expert])) Drop(row, j);
    }
  }

  // First choices of all rows before second ones, each in the order of the rows
  // (huggingface/transformers, models/nllb_moe/modeling_nllb_moe.py, NllbMoeTop2Router; with one
  // choice models/switch_transformers/modeling_switch_transformers.py).
  int32_t DropBeyondCapacity(int32_t first, int32_t last) const {
    Workspace::Scope scope(context_.workspace);
    int32_t* load = context_.workspace.Take<int32_t>(spec_.num_experts);
    std::fill_n(load, spec_.num_experts, 0);
    const int32_t most = ExpertCapacity(*spec_.capacity, spec_.num_experts, last - first);
    int32_t dropped = 0;
    for (int32_t j = 0; j < routing_.top_k; ++j) {
      for (int32_t i = first; i < last; ++i) {
        const int32_t expert = Experts(i)[j];
        if (expert >= spec_.num_experts || load[expert]++ < most) continue;
        Drop(i, j);
        context_.stats.CountDropped(rows_.origin[i]);
        if (spec_.capacity->renormalize_kept) Renormalize(i);
        ++dropped;
      }
    }
    return dropped;
  }

  // google/flaxformer, architectures/moe/routing.py, ExpertsChooseMaskedRouter: the largest scores
  // of every expert, ties by position.
  void KeepBestRows(int32_t first, int32_t last) const {
    Workspace::Scope scope(context_.workspace);
    const int32_t count = last - first;
    const int32_t experts = spec_.num_experts;
    const int32_t most = std::min(count, ExpertCapacity(*spec_.capacity, spec_.num_experts, count));
    // Where each row has each expert among its choices; -1: it has been dropped.
    int32_t* choice = context_.workspace.Take<int32_t>(int64_t{count} * experts);
    int32_t* order = context_.workspace.Take<int32_t>(count);
    std::fill_n(choice, int64_t{count} * experts, -1);
    for (int32_t i = 0; i < count; ++i) {
      for (int32_t j = 0; j < routing_.top_k; ++j) {
        const int32_t expert = Experts(first + i)[j];
        if (expert < experts) choice[i * experts + expert] = j;
      }
    }
    for (int32_t e = 0; e < experts; ++e) {
      int32_t offered = 0;
      for (int32_t i = 0; i < count; ++i) {
        if (choice[i * experts + e] >= 0) order[offered++] = i;
      }
      const auto score = [&](int32_t i) {
        const float weight = Weights(first + i)[choice[i * experts + e]];
        return std::isnan(weight) ? -std::numeric_limits<float>::infinity() : weight;
      };
      std::sort(order, order + offered, [&](int32_t a, int32_t b) {
        return score(a) > score(b) || (score(a) == score(b) && a < b);
      });
      for (int32_t i = most; i < offered; ++i)
        Drop(first + order[i], choice[order[i] * experts + e]);
    }
  }

  const RouterSpec& spec_;
  const Routing& routing_;
  const Rows& rows_;
  ForwardContext& context_;
};

}  // namespace

int32_t SelectExperts(const RouterSpec& spec,
                      const Routing& routing,
                      const Rows& rows,
                      ForwardContext& context) {
  return Choices(spec, routing, rows, context).Select();
}

int64_t SelectionWorkspaceBytes(const RouterSpec& spec, int32_t max_rows) {
  if (!spec.capacity.has_value()) return 0;
  if (spec.pick == ExpertPick::kRowTopK) return Workspace::BytesFor(spec.num_experts);
  return Workspace::BytesFor(int64_t{max_rows} * spec.num_experts) + Workspace::BytesFor(max_rows);
}

int32_t ExpertCapacity(const ExpertCapacitySpec& spec, int32_t num_experts, int32_t rows) {
  if (spec.rows > 0) return spec.rows;
  const double share = spec.share > 0.0 ? std::ceil(spec.share * rows)
                                        : std::nearbyint(spec.factor * rows / num_experts);
  // A capacity above the number of rows refuses nobody.
  return std::max(spec.min_rows, static_cast<int32_t>(std::min(share, 1.0 * rows)));
}

}  // namespace sluice
