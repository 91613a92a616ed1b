#include "engine/blocks/soft_adapter.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/blocks/row_softmax.h"
#include "engine/status_macros.h"

namespace sluice {

using kernels::AllRows;
using kernels::TensorView;
using kernels::WeightFormat;

namespace {

// Zeroes all but the k largest, of equal ones the first (jax.lax.top_k).
void KeepTop(float* p, int64_t size, int32_t k) {
  const auto rank_of = [&](int64_t i) {
    int32_t before = 0;
    for (int64_t j = 0; j < size; ++j) {
      const float other = std::abs(p[j]);  // a dropped one keeps its value behind a minus sign
      before += other > p[i] || (other == p[i] && j < i) ? 1 : 0;
    }
    return before;
  };
  for (int64_t i = 0; i < size; ++i) {
    if (rank_of(i) >= k) p[i] = -p[i];
  }
  for (int64_t i = 0; i < size; ++i) p[i] = std::max(p[i], 0.0f);
}

double ProductFlops(const kernels::PackedMatrix& matrix) {
  return 2.0 * static_cast<double>(matrix.n * matrix.k);
}

}  // namespace

absl::StatusOr<SoftRouter> SoftRouter::Load(const SoftRouterSpec& spec,
                                            int64_t width,
                                            WeightLoader& loader) {
  SoftRouter router;
  router.top_k_ = spec.top_k;
  const ProjectionSpec projection{.in = width,
                                  .out = spec.num_experts,
                                  .weight = spec.weight,
                                  .bias = spec.bias,
                                  .transposed = true};
  ASSIGN_OR_RETURN(router.weight_, loader.Matrix({projection}, WeightFormat::kF32));
  ASSIGN_OR_RETURN(router.bias_, loader.Biases({projection}));
  return router;
}

void SoftRouter::Weigh(const TensorView& x,
                       int32_t count,
                       const TensorView& out,
                       ForwardContext& context) const {
  context.backend.Linear({.x = x,
                          .x_rows = AllRows(count),
                          .weight = &weight_,
                          .bias = bias_.data(),
                          .out = out,
                          .out_rows = AllRows(count)});
  context.backend.Synchronize();
  for (int32_t i = 0; i < count; ++i) {
    Softmax(out.Row(i), out.cols);
    if (top_k_ > 0) KeepTop(out.Row(i), out.cols, top_k_);
  }
}

absl::StatusOr<SoftScaling> SoftScaling::Load(const std::optional<SoftScalingSpec>& spec,
                                              int64_t width,
                                              WeightLoader& loader) {
  SoftScaling scaling;
  if (!spec.has_value()) return scaling;
  const int32_t runs = std::max(1, spec->heads);
  scaling.run_ = width / runs;
  ASSIGN_OR_RETURN(scaling.router_, SoftRouter::Load(spec->router, scaling.run_, loader));
  const ProjectionSpec vectors{.in = spec->router.num_experts,
                               .out = scaling.run_,
                               .weight = spec->weight,
                               .transposed = true};
  ASSIGN_OR_RETURN(scaling.vectors_, loader.Stacked(vectors, runs, WeightFormat::kF32));
  return scaling;
}

void SoftScaling::Apply(const TensorView& x, int32_t count, ForwardContext& context) const {
  if (!router_.has_value()) return;
  Workspace::Scope scope(context.workspace);
  const TensorView p = context.workspace.TakeMatrix(count, router_->num_experts());
  const TensorView factors = context.workspace.TakeMatrix(count, run_);
  for (size_t run = 0; run < vectors_.size(); ++run) {
    const TensorView part = x.Columns(static_cast<int64_t>(run) * run_, run_);
    router_->Weigh(part, count, p, context);
    context.backend.Linear({.x = p,
                            .x_rows = AllRows(count),
                            .weight = &vectors_[run],
                            .out = factors,
                            .out_rows = AllRows(count)});
    context.backend.Synchronize();
    for (int32_t i = 0; i < count; ++i) {
      float* row = part.Row(i);
      const float* factor = factors.Row(i);
      for (int64_t c = 0; c < run_; ++c) row[c] *= factor[c];
    }
  }
}

int64_t SoftScaling::WorkspaceBytes(int32_t max_rows) const {
  if (!router_.has_value()) return 0;
  return Workspace::BytesFor(max_rows * router_->num_experts()) +
         Workspace::BytesFor(max_rows * run_);
}

double SoftScaling::FlopsPerRow() const {
  double flops = 0.0;
  for (const kernels::PackedMatrix& matrix : vectors_) flops += 2.0 * ProductFlops(matrix);
  return flops;  // the router's product has the size of the vectors'
}

int64_t SoftScaling::WeightBytes() const {
  int64_t bytes = router_.has_value() ? router_->bytes() : 0;
  for (const kernels::PackedMatrix& matrix : vectors_) bytes += matrix.bytes();
  return bytes;
}

absl::StatusOr<SoftLowRank> SoftLowRank::Load(const ProjectionSpec& projection,
                                              WeightLoader& loader) {
  SoftLowRank low_rank;
  if (!projection.low_rank.has_value()) return low_rank;
  const SoftLowRankSpec& spec = *projection.low_rank;
  const int64_t experts = spec.router.num_experts;
  low_rank.rank_ = spec.rank;
  low_rank.scale_ = spec.scale;
  ASSIGN_OR_RETURN(low_rank.router_, SoftRouter::Load(spec.router, projection.in, loader));
  const ProjectionSpec down{
      .in = projection.in, .out = spec.rank, .weight = spec.down, .transposed = true};
  ASSIGN_OR_RETURN(low_rank.down_,
                   loader.Joined(down, spec.router.num_experts, WeightFormat::kF32));
  const ProjectionSpec up{
      .in = experts * spec.rank, .out = projection.out, .weight = spec.up, .transposed = true};
  ASSIGN_OR_RETURN(low_rank.up_, loader.Matrix({up}, WeightFormat::kF32));
  return low_rank;
}

void SoftLowRank::AddTo(const TensorView& x,
                        int32_t count,
                        const TensorView& out,
                        ForwardContext& context) const {
  if (empty()) return;
  Workspace::Scope scope(context.workspace);
  const TensorView p = context.workspace.TakeMatrix(count, router_->num_experts());
  const TensorView inner = context.workspace.TakeMatrix(count, down_.n);
  router_->Weigh(x, count, p, context);
  context.backend.Linear({.x = x,
                          .x_rows = AllRows(count),
                          .weight = &down_,
                          .out = inner,
                          .out_rows = AllRows(count)});
  context.backend.Synchronize();
  for (int32_t i = 0; i < count; ++i) {
    float* row = inner.Row(i);
    for (int64_t c = 0; c < inner.cols; ++c) row[c] *= scale_ * p.Row(i)[c / rank_];
  }
  context.backend.Linear({.x = inner,
                          .x_rows = AllRows(count),
                          .weight = &up_,
                          .out = out,
                          .out_rows = AllRows(count),
                          .accumulate = true});
}

int64_t SoftLowRank::WorkspaceBytes(int32_t max_rows) const {
  if (empty()) return 0;
  return Workspace::BytesFor(max_rows * router_->num_experts()) +
         Workspace::BytesFor(max_rows * down_.n);
}

double SoftLowRank::FlopsPerRow() const {
  if (empty()) return 0.0;
  return ProductFlops(down_) + ProductFlops(up_) +
         2.0 * static_cast<double>(router_->num_experts() * down_.k);
}

int64_t SoftLowRank::WeightBytes() const {
  return empty() ? 0 : router_->bytes() + down_.bytes() + up_.bytes();
}

}  // namespace sluice
