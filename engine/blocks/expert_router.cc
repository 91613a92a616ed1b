#include "engine/blocks/expert_router.h"

#include "engine/blocks/scaled_rows.h"
#include "engine/status_macros.h"

namespace sluice {

absl::StatusOr<ExpertRouter> ExpertRouter::Load(const RouterSpec& spec,
                                                int64_t dim,
                                                int32_t groups,
                                                WeightLoader& loader) {
  ExpertRouter router;
  router.spec_ = spec;
  router.groups_ = groups;
  const int64_t outputs = int64_t{groups} * (spec.num_experts + spec.num_null_experts);
  if (spec.hidden > 0) {
    const ProjectionSpec hidden{
        .in = dim, .out = spec.hidden, .weight = spec.hidden_weight, .bias = spec.hidden_bias};
    ASSIGN_OR_RETURN(router.hidden_, loader.Matrix({hidden}, kernels::WeightFormat::kF32));
    ASSIGN_OR_RETURN(router.hidden_bias_, loader.Biases({hidden}));
    dim = spec.hidden;
  }
  const ProjectionSpec projection{
      .in = dim, .out = outputs, .weight = spec.weight, .bias = spec.bias};
  ASSIGN_OR_RETURN(router.weight_, loader.Matrix({projection}, kernels::WeightFormat::kF32));
  ASSIGN_OR_RETURN(router.bias_, loader.Biases({projection}));
  ASSIGN_OR_RETURN(router.selection_bias_,
                   loader.Vector(spec.selection_bias, spec.num_experts + spec.num_null_experts));
  return router;
}

kernels::TensorView ExpertRouter::Logits(kernels::TensorView x,
                                         int32_t count,
                                         ForwardContext& context) const {
  const kernels::RowSet rows = kernels::AllRows(count);
  const kernels::TensorView logits = context.workspace.TakeMatrix(count, weight_.n);
  x = ScaledRows(x, count, spec_.input_scale, context);
  if (hidden_.n > 0) {
    const kernels::TensorView read = x;
    x = context.workspace.TakeMatrix(count, hidden_.n);
    context.backend.Linear({.x = read,
                            .x_rows = rows,
                            .weight = &hidden_,
                            .bias = hidden_bias_.data(),
                            .activation = spec_.hidden_activation,
                            .out = x,
                            .out_rows = rows});
  }
  context.backend.Linear({.x = x,
                          .x_rows = rows,
                          .weight = &weight_,
                          .bias = bias_.data(),
                          .out = logits,
                          .out_rows = rows});
  return logits;
}

Routing ExpertRouter::Route(const Call& call, ForwardContext& context) const {
  const int32_t count = call.rows->count();
  const int32_t choices = count * groups_;
  Routing routing{context.workspace.Take<int32_t>(int64_t{choices} * spec_.top_k),
                  context.workspace.Take<float>(int64_t{choices} * spec_.top_k), spec_.top_k};
  const kernels::TensorView logits = Logits(call.x, count, context);
  context.backend.Route({.score = spec_.score,
                         .top_k = spec_.top_k,
                         .renormalize = spec_.renormalize,
                         .renormalize_epsilon = spec_.renormalize_epsilon,
                         .scale = spec_.scale,
                         .selection_bias = selection_bias_.data(),
                         .logits = kernels::MatrixView(logits.data, choices, weight_.n / groups_),
                         .rows = choices,
                         .experts = routing.experts,
                         .weights = routing.weights,
                         .num_groups = spec_.num_groups,
                         .top_groups = spec_.top_groups,
                         .group_score = spec_.group_score});
  int32_t dropped = 0;
  if (call.kind == ExpertKind::kFfn && call.record)
    dropped = SelectExperts(spec_, routing, *call.rows, context);
  if (groups_ > 1) {
    // Group h owns experts [h * num_experts, (h + 1) * num_experts).
    for (int32_t i = 0; i < choices * spec_.top_k; ++i) {
      routing.experts[i] += (i / spec_.top_k % groups_) * spec_.num_experts;
    }
  }
  if (call.record) {
    context.stats.RecordExperts({.layer_instance = call.layer_instance,
                                 .kind = call.kind,
                                 .num_experts = spec_.num_experts * groups_,
                                 .top_k = spec_.top_k * groups_,
                                 .dropped = dropped},
                                call.rows->origin, routing.experts);
  }
  if (context.Watching() != nullptr) {
    context.observer->OnRouting(
        {.layer_instance = call.layer_instance,
         .kind = call.kind,
         .of_depth = !call.record,
         .origin = call.rows->origin,
         .logits = logits,
         .weights = kernels::MatrixView(routing.weights, count, int64_t{groups_} * spec_.top_k)});
  }
  context.stats.AddFlops(call.rows->origin, FlopsPerRow());
  context.stats.AddWeightBytes(weight_bytes());
  return routing;
}

int64_t ExpertRouter::WorkspaceBytes(int32_t max_rows) const {
  const int64_t choices = int64_t{max_rows} * groups_ * spec_.top_k;
  return 2 * Workspace::BytesFor(choices) + Workspace::BytesFor(int64_t{max_rows} * weight_.n) +
         Workspace::BytesFor(int64_t{max_rows} * hidden_.n) +
         (spec_.input_scale == 1.0f ? 0 : Workspace::BytesFor(int64_t{max_rows} * dim())) +
         SelectionWorkspaceBytes(spec_, max_rows);
}

}  // namespace sluice
