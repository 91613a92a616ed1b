#include "engine/blocks/mixture_ffn.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/blocks/row_softmax.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

// Mixtures run at a time: bounds the arena, whatever the number of experts. Which mixtures run
// together changes no bit, as every expert's output is added on its own, in ascending order.
constexpr int32_t kMaxMixtures = 1'024;
constexpr int32_t kMaxGroups = 256;

// out += scale * x.
void AddScaled(const float* x, float scale, int64_t size, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] += scale * x[i];
}

// Every value that is the largest becomes 1 (llm-random lizrd/core/misc.py, argmax_one_hot).
void KeepLargest(float* row, int64_t size) {
  const float largest = *std::max_element(row, row + size);
  for (int64_t i = 0; i < size; ++i) row[i] = row[i] == largest ? 1.0f : 0.0f;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MixtureFfn>> MixtureFfn::Load(const MixtureFfnSpec& spec,
                                                             int64_t dim,
                                                             WeightLoader& loader) {
  auto block = std::make_unique<MixtureFfn>();
  block->spec_ = spec;
  const ProjectionSpec controller{
      .in = dim, .out = spec.num_experts, .weight = spec.controller, .transposed = true};
  ASSIGN_OR_RETURN(block->controller_, loader.Matrix({controller}, kernels::WeightFormat::kF32));
  const ProjectionSpec up{.in = dim, .out = spec.hidden, .weight = spec.up, .transposed = true};
  ASSIGN_OR_RETURN(block->up_, loader.Stacked(up, spec.num_experts));
  const ProjectionSpec down{.in = spec.hidden, .out = dim, .weight = spec.down, .transposed = true};
  ASSIGN_OR_RETURN(block->down_, loader.Stacked(down, spec.num_experts));
  return block;
}

void MixtureFfn::Forward(const BlockInput& input, ForwardContext& context) {
  const int32_t count = input.rows.count();
  Workspace::Scope scope(context.workspace);
  Mixing mixing{.groups = MakeGroups(input, context)};
  MakeWeights(input, mixing, context);
  // The input may be the very rows that the result goes to.
  mixing.sum = context.workspace.TakeMatrix(count, input.out.cols);
  context.backend.Fill(mixing.sum, 0.0f);
  for (int32_t group = 0; group < mixing.groups.count; group += kMaxGroups) {
    const int32_t num_groups = std::min(kMaxGroups, mixing.groups.count - group);
    const int32_t step = kMaxMixtures / num_groups;
    for (int32_t expert = 0; expert < spec_.num_experts; expert += step) {
      const int32_t num_experts = std::min(step, spec_.num_experts - expert);
      RunTile({group, num_groups, expert, num_experts}, mixing, input, context);
    }
  }
  if (!input.accumulate) context.backend.Fill(input.out.Rows(0, count), 0.0f);
  context.backend.AddRows(mixing.sum, 1.0f, input.out, kernels::AllRows(count));
  context.stats.AddWeightBytes(WeightBytes());
}

MixtureFfn::Groups MixtureFfn::MakeGroups(const BlockInput& input, ForwardContext& context) const {
  const int32_t count = input.rows.count();
  Groups groups{context.workspace.Take<int32_t>(count), context.workspace.Take<int32_t>(count + 1)};
  const auto routing_of = [&](int32_t row) -> const RowRouting& {
    return context.batch.routing[static_cast<size_t>(input.rows.origin[row])];
  };
  const auto position_of = [&](int32_t row) {
    return context.batch.positions[static_cast<size_t>(input.rows.origin[row])];
  };
  for (int32_t i = 0; i < count; ++i) groups.order[i] = i;
  std::sort(groups.order, groups.order + count, [&](int32_t a, int32_t b) {
    const RowRouting& left = routing_of(a);
    const RowRouting& right = routing_of(b);
    if (left.cohort != right.cohort) return left.cohort < right.cohort;
    if (left.cohort < 0) return a < b;
    if (position_of(a) != position_of(b)) return position_of(a) < position_of(b);
    return left.slot < right.slot;
  });
  for (int32_t i = 0; i < count; ++i) {
    const int32_t row = groups.order[i];
    const int32_t last = i > 0 ? groups.order[i - 1] : row;
    const bool same = i > 0 && routing_of(row).cohort >= 0 &&
                      routing_of(row).cohort == routing_of(last).cohort &&
                      position_of(row) == position_of(last);
    if (!same) groups.begin[groups.count++] = i;
    SLUICE_DCHECK(i + 1 - groups.begin[groups.count - 1] <= spec_.group_size);
  }
  groups.begin[groups.count] = count;
  return groups;
}

void MixtureFfn::MakeWeights(const BlockInput& input,
                             Mixing& mixing,
                             ForwardContext& context) const {
  const int32_t count = input.rows.count();
  const int64_t experts = spec_.num_experts;
  mixing.merge = context.workspace.TakeMatrix(count, experts);
  context.backend.Linear({.x = input.normed,
                          .x_rows = kernels::AllRows(count),
                          .weight = &controller_,
                          .out = mixing.merge,
                          .out_rows = kernels::AllRows(count)});
  context.backend.Synchronize();
  for (int32_t i = 0; i < count; ++i) {
    float* row = mixing.merge.Row(i);
    for (int64_t e = 0; e < experts; ++e) row[e] /= spec_.temperature;
  }
  mixing.emit = mixing.merge;
  if (spec_.emit_over_experts) {
    mixing.emit = context.workspace.TakeMatrix(count, experts);
    for (int32_t i = 0; i < count; ++i) {
      float* row = mixing.emit.Row(i);
      std::copy_n(mixing.merge.Row(i), experts, row);
      Softmax(row, experts);
      if (spec_.discrete) KeepLargest(row, experts);
    }
  }
  for (int32_t group = 0; group < mixing.groups.count; ++group)
    WeighGroup(mixing.groups, group, mixing.merge);
  if (context.Watching() == nullptr) return;
  context.observer->OnValues("merge", input.layer_instance, input.rows.origin, mixing.merge);
  context.observer->OnValues("emit", input.layer_instance, input.rows.origin, mixing.emit);
}

// Logits to merge weights. For a row alone it is sigmoid(l - log(group_size - 1)).
void MixtureFfn::WeighGroup(const Groups& groups,
                            int32_t group,
                            kernels::TensorView weights) const {
  const int32_t begin = groups.begin[group];
  const int32_t end = groups.begin[group + 1];
  const auto zero_rows = static_cast<float>(std::max(0, spec_.group_size - (end - begin)));
  for (int32_t e = 0; e < spec_.num_experts; ++e) {
    const auto at = [&](int32_t member) -> float& { return weights.Row(groups.order[member])[e]; };
    float largest = zero_rows > 0.0f ? 0.0f : at(begin);
    for (int32_t c = begin; c < end; ++c) largest = std::max(largest, at(c));
    if (spec_.discrete) {
      for (int32_t c = begin; c < end; ++c) at(c) = at(c) == largest ? 1.0f : 0.0f;
      continue;
    }
    float sum = zero_rows * std::exp(-largest);
    for (int32_t c = begin; c < end; ++c) sum += at(c) = std::exp(at(c) - largest);
    for (int32_t c = begin; c < end; ++c) at(c) /= sum;
  }
}

void MixtureFfn::RunTile(const Tile& tile,
                         const Mixing& mixing,
                         const BlockInput& input,
                         ForwardContext& context) const {
  Workspace::Scope scope(context.workspace);
  const Groups& groups = mixing.groups;
  const int32_t count = tile.count();
  const int64_t dim = mixing.sum.cols;
  // Mixture e * num_groups + g: the rows of an expert lie together, so its weights are read once.
  const kernels::TensorView mixed = context.workspace.TakeMatrix(count, dim);
  const kernels::TensorView hidden = context.workspace.TakeMatrix(count, spec_.hidden);
  const kernels::TensorView out = context.workspace.TakeMatrix(count, dim);
  int32_t* expert = context.workspace.Take<int32_t>(count);
  int32_t* row = context.workspace.Take<int32_t>(count);
  for (const kernels::TensorView& x : {mixed, hidden, out}) context.backend.Fill(x, 0.0f);
  context.backend.Synchronize();
  const auto for_each_member = [&](const auto& visit) {
    for (int32_t a = 0; a < count; ++a) {
      const int32_t group = tile.first_group + a % tile.num_groups;
      const int32_t e = tile.first_expert + a / tile.num_groups;
      for (int32_t c = groups.begin[group]; c < groups.begin[group + 1]; ++c)
        visit(a, e, groups.order[c]);
    }
  };
  for_each_member([&](int32_t a, int32_t e, int32_t member) {
    expert[a] = e;
    row[a] = a;
    AddScaled(input.normed.Row(member), mixing.merge.Row(member)[e], dim, mixed.Row(a));
  });
  const kernels::ExpertLinearArgs each{
      .expert = expert, .x_row = row, .out_row = row, .count = count};
  kernels::ExpertLinearArgs up = each;
  up.x = mixed, up.weights = up_, up.out = hidden;
  context.backend.ExpertLinear(up);
  context.backend.Activate(
      {.activation = spec_.activation, .gated = false, .x = hidden, .rows = count, .out = hidden});
  kernels::ExpertLinearArgs down = each;
  down.x = hidden, down.weights = down_, down.out = out;
  context.backend.ExpertLinear(down);
  context.backend.Synchronize();
  for_each_member([&](int32_t a, int32_t e, int32_t member) {
    AddScaled(out.Row(a), mixing.emit.Row(member)[e], dim, mixing.sum.Row(member));
  });
  CountTile(tile, groups, input.rows, context);
}

// The members of a group share the work of its experts.
void MixtureFfn::CountTile(const Tile& tile,
                           const Groups& groups,
                           const Rows& rows,
                           ForwardContext& context) const {
  const double expert = 4.0 * static_cast<double>(controller_.k * spec_.hidden);
  const double controller =
      tile.first_expert == 0 ? 2.0 * static_cast<double>(controller_.n * controller_.k) : 0.0;
  for (int32_t g = tile.first_group; g < tile.first_group + tile.num_groups; ++g) {
    const int32_t members = groups.begin[g + 1] - groups.begin[g];
    for (int32_t c = groups.begin[g]; c < groups.begin[g + 1]; ++c) {
      context.stats.AddRowFlops(rows.origin[groups.order[c]],
                                controller + expert * tile.num_experts / members);
    }
  }
}

int64_t MixtureFfn::WorkspaceBytes(int32_t max_rows) const {
  const int64_t rows = max_rows;
  const int64_t dim = controller_.k;
  return 2 * Workspace::BytesFor(rows + 1) + 2 * Workspace::BytesFor(rows * spec_.num_experts) +
         Workspace::BytesFor(rows * dim) + 2 * Workspace::BytesFor(kMaxMixtures * dim) +
         Workspace::BytesFor(kMaxMixtures * spec_.hidden) + 2 * Workspace::BytesFor(kMaxMixtures);
}

double MixtureFfn::FlopsPerRow(bool /*dense*/) const {
  const int64_t experts = 2 * controller_.k * spec_.hidden * spec_.num_experts;
  return 2.0 * static_cast<double>(controller_.n * controller_.k + experts);
}

int64_t MixtureFfn::WeightBytes() const {
  int64_t bytes = controller_.bytes();
  for (const auto* matrices : {&up_, &down_}) {
    for (const kernels::PackedMatrix& matrix : *matrices) bytes += matrix.bytes();
  }
  return bytes;
}

}  // namespace sluice
