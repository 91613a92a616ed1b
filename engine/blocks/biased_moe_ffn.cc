#include "engine/blocks/biased_moe_ffn.h"

#include <algorithm>

#include "engine/status_macros.h"

namespace sluice {

using kernels::AllRows;
using kernels::TensorView;

absl::StatusOr<std::unique_ptr<BiasedMoeFfn>> BiasedMoeFfn::Load(const MoeFfnSpec& spec,
                                                                 int64_t dim,
                                                                 WeightLoader& loader) {
  ASSIGN_OR_RETURN(ExpertRouter router, ExpertRouter::Load(spec.router, dim, 1, loader));
  auto block = std::make_unique<BiasedMoeFfn>(std::move(router));
  block->spec_ = spec;
  block->dim_ = dim;
  const int32_t experts = spec.router.num_experts;
  ProjectionSpec up{.in = dim, .out = spec.hidden, .weight = spec.experts.up};
  ProjectionSpec down{.in = spec.hidden, .out = dim, .weight = spec.experts.down};
  up.transposed = down.transposed = spec.experts.transposed;
  ASSIGN_OR_RETURN(block->up_, loader.Stacked(up, experts));
  ASSIGN_OR_RETURN(block->down_, loader.Stacked(down, experts));
  ASSIGN_OR_RETURN(block->up_bias_, loader.Vector(spec.experts.up_bias, experts * spec.hidden));
  ASSIGN_OR_RETURN(block->down_bias_, loader.Vector(spec.experts.down_bias, experts * dim));
  return block;
}

BiasedMoeFfn::Pairs BiasedMoeFfn::Collect(const Routing& routing,
                                          const Rows& rows,
                                          ForwardContext& context) const {
  const int64_t most = int64_t{rows.count()} * routing.top_k;
  Pairs pairs{context.workspace.Take<int32_t>(most), context.workspace.Take<int32_t>(most),
              context.workspace.Take<int32_t>(most), context.workspace.Take<float>(most)};
  for (int32_t i = 0; i < rows.count(); ++i) {
    int32_t real = 0;
    for (int32_t j = i * routing.top_k; j < (i + 1) * routing.top_k; ++j) {
      if (routing.experts[j] >= spec_.router.num_experts) continue;  // a null expert
      pairs.expert[pairs.count] = routing.experts[j];
      pairs.row[pairs.count] = i;
      pairs.pair[pairs.count] = pairs.count;
      pairs.weight[pairs.count++] = routing.weights[j];
      ++real;
    }
    context.stats.AddRowFlops(rows.origin[i],
                              4.0 * static_cast<double>(dim_ * spec_.hidden) * real);
  }
  return pairs;
}

void BiasedMoeFfn::Forward(const BlockInput& input, ForwardContext& context) {
  Workspace::Scope scope(context.workspace);
  const Routing routing = router_.Route({.x = input.normed,
                                         .rows = &input.rows,
                                         .layer_instance = input.layer_instance,
                                         .kind = ExpertKind::kFfn},
                                        context);
  const Pairs pairs = Collect(routing, input.rows, context);
  const TensorView hidden = context.workspace.TakeMatrix(pairs.count, spec_.hidden);
  // Products are added to what is there: the bias of each pair's expert, or zero.
  if (!up_bias_.empty()) {
    float* table = const_cast<float*>(up_bias_.data());  // a view that is only read
    context.backend.Gather(kernels::MatrixView(table, spec_.router.num_experts, spec_.hidden),
                           {pairs.expert, pairs.count, nullptr}, hidden);
  } else {
    for (int32_t i = 0; i < pairs.count; ++i) std::fill_n(hidden.Row(i), spec_.hidden, 0.0f);
  }
  context.backend.ExpertLinear({.x = spec_.input_from_residual ? input.rows.x : input.normed,
                                .weights = up_,
                                .expert = pairs.expert,
                                .x_row = pairs.row,
                                .out_row = pairs.pair,
                                .count = pairs.count,
                                .out = hidden});
  context.backend.Activate({.activation = spec_.activation,
                            .gated = false,
                            .x = hidden,
                            .rows = pairs.count,
                            .out = hidden});
  if (!input.accumulate) {
    for (int32_t i = 0; i < input.rows.count(); ++i) std::fill_n(input.out.Row(i), dim_, 0.0f);
  }
  context.backend.ExpertLinear({.x = hidden,
                                .weights = down_,
                                .expert = pairs.expert,
                                .x_row = pairs.pair,
                                .out_row = pairs.row,
                                .scale = pairs.weight,
                                .count = pairs.count,
                                .out = input.out});
  for (int32_t i = 0; !down_bias_.empty() && i < pairs.count; ++i) {
    const float* bias = down_bias_.data() + pairs.expert[i] * dim_;
    float* out = input.out.Row(pairs.row[i]);
    for (int64_t c = 0; c < dim_; ++c) out[c] += pairs.weight[i] * bias[c];
  }
  const int64_t touched = std::min<int64_t>(pairs.count, spec_.router.num_experts);
  context.stats.AddWeightBytes(touched * (up_.front().bytes() + down_.front().bytes()));
}

int64_t BiasedMoeFfn::WorkspaceBytes(int32_t max_rows) const {
  const int64_t pairs = int64_t{max_rows} * spec_.router.top_k;
  return router_.WorkspaceBytes(max_rows) + 4 * Workspace::BytesFor(pairs) +
         Workspace::BytesFor(pairs * spec_.hidden);
}

double BiasedMoeFfn::FlopsPerRow(bool dense) const {
  const int32_t experts = dense ? spec_.router.num_experts : spec_.router.top_k;
  return router_.FlopsPerRow() + 4.0 * static_cast<double>(dim_ * spec_.hidden) * experts;
}

int64_t BiasedMoeFfn::ExpertParameters() const {
  return 2 * dim_ * spec_.hidden + (up_bias_.size + down_bias_.size) / spec_.router.num_experts;
}

int64_t BiasedMoeFfn::NumParameters() const {
  return router_.num_parameters() + ExpertParameters() * spec_.router.num_experts;
}

int64_t BiasedMoeFfn::NumActiveParameters() const {
  return router_.num_parameters() + ExpertParameters() * spec_.router.top_k;
}

int64_t BiasedMoeFfn::WeightBytes() const {
  int64_t bytes = router_.weight_bytes();
  for (const auto* matrices : {&up_, &down_}) {
    for (const kernels::PackedMatrix& matrix : *matrices) bytes += matrix.bytes();
  }
  return bytes;
}

}  // namespace sluice
